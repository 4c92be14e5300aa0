//! End dates of the certificates that the link uses, read from their DER, and who may read the key.
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Finding, Level, Subject};
use crate::decide::time::Timestamp;
use crate::shell::clock;
use crate::shell::systemd::credential;

/// Days before the end at which it is worth a warning: a fleet renews in waves.
const SOON_DAYS: i64 = 30;
const DAY_MICROS: i64 = 86_400_000_000;

pub(super) fn findings(subject: &Subject<'_>) -> Vec<Finding> {
    let settings = &subject.config.mqtt;
    if !settings.is_on() {
        return Vec::new();
    }
    let files =
        [("the broker's authority", &settings.ca_file), ("this device's certificate", &settings.certificate_file)];
    let named = files.into_iter().filter_map(|(what, file)| Some((what, file.as_deref()?)));
    let mut found: Vec<_> = named.map(|(what, file)| certificate(what, file, &subject.at(file), subject.now)).collect();
    found.extend(settings.key_file.as_deref().map(|file| key(file, &subject.at(&credential(file)))));
    found
}

fn certificate(what: &str, file: &Path, at: &Path, now: Timestamp) -> Finding {
    const CHECK: &str = "certificate";
    let file = file.display();
    let costs = "the link to the fleet cannot be made";
    let ends = match fs::read(at) {
        Err(error) => {
            return Finding::new(CHECK, Level::Bad, format!("{what}, {file}: {error}"), costs)
                .next("set the files of [mqtt]");
        }
        Ok(bytes) => CertificateDer::pem_slice_iter(&bytes).filter_map(|der| not_after(&der.ok()?)).min(),
    };
    let Some(ends) = ends else {
        return Finding::new(CHECK, Level::Bad, format!("{what}, {file}, is no certificate in PEM"), costs)
            .next("set the files of [mqtt]");
    };
    let days = (ends.0 - now.0).div_euclid(DAY_MICROS);
    let found = format!("{what}, {file}, is good until {}", clock::shown(ends));
    if days < 0 {
        return Finding::new(CHECK, Level::Bad, format!("{what}, {file}, has ended at {}", clock::shown(ends)), costs)
            .next("renew it");
    }
    if days < SOON_DAYS {
        return Finding::new(CHECK, Level::Warning, format!("{found}: {days} days"), "then the link ends")
            .next("renew it");
    }
    Finding::good(CHECK, found)
}

fn key(file: &Path, at: &Path) -> Finding {
    const CHECK: &str = "key";
    let shown = file.display();
    match fs::metadata(at) {
        Err(error) => {
            Finding::new(CHECK, Level::Warning, format!("{shown}: {error}"), "without it there is no link to the fleet")
                .next("is it there? Only root may look into /etc/hone/credentials")
        }
        Ok(data) if data.permissions().mode() & 0o077 != 0 => {
            let costs = "whoever reads it can speak as this device";
            Finding::new(CHECK, Level::Warning, format!("{shown} can be read by others"), costs)
                .next(format!("chmod 600 {shown}, or move it to /etc/hone/credentials"))
        }
        Ok(_) => Finding::good(CHECK, format!("{shown}, its owner's alone")),
    }
}

/// One DER element: its tag, its contents, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        let (digits, rest) = rest.split_at_checked(count).filter(|_| (1..=4).contains(&count))?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// The end of a certificate's validity (RFC 5280, 4.1).
fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate, _) = element(der)?;
    let (_, mut fields, _) = element(certificate)?;
    // An optional version, then serial number, signature algorithm, issuer, validity.
    if fields.first() == Some(&0xa0) {
        fields = element(fields)?.2;
    }
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    // UTCTime has two digits of the year, and 50 is 1950.
    let full = match tag {
        0x17 => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        0x18 => text.to_owned(),
        _ => return None,
    };
    let part = |range: std::ops::Range<usize>| full.get(range);
    clock::moment(&format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4)?,
        part(4..6)?,
        part(6..8)?,
        part(8..10)?,
        part(10..12)?,
        part(12..14)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A self-signed P-256 certificate for `press-1`, made with `openssl req -x509 -days 3650` on 2026-11-21.
    const PEM: &str = include_str!("certificate.pem");

    fn at(text: &str) -> Timestamp {
        clock::moment(text).unwrap()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_and_judged_by_the_days_left() {
        let der = CertificateDer::from_pem_slice(PEM.as_bytes()).unwrap();
        let ends = not_after(&der).expect("an end");
        assert_eq!(ends, at("2036-11-18T08:22:24Z"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.pem");
        fs::write(&path, PEM).unwrap();
        let level =
            |now: i64| certificate("it", Path::new("/d.pem"), &path, Timestamp(ends.0 + now * DAY_MICROS)).level;
        assert_eq!([level(-400), level(-29), level(1)], [Level::Good, Level::Warning, Level::Bad]);
        fs::write(&path, "no certificate").unwrap();
        assert_eq!(level(-400), Level::Bad);
    }

    #[test]
    fn broken_der_is_no_date_and_no_panic() {
        let der = CertificateDer::from_pem_slice(PEM.as_bytes()).unwrap();
        for length in 0..der.len() {
            let _ = not_after(&der[..length]);
        }
        for place in 0..der.len() {
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut bytes = der.to_vec();
                bytes[place] = value;
                let _ = not_after(&bytes);
            }
        }
        assert_eq!(not_after(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
