//! The fleet's own certificate authority: one key in a folder of its owner, certificates for broker, controllers and devices.
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::exit::{Exit, Fail};

/// Name of the authority in its certificate.
const NAME: &str = "hone fleet authority";
/// How long certificates hold.
const DAYS: u64 = 3_650;

/// An authority that can sign.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub(crate) certificate: String,
}

/// A certificate with its key, both PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// A broker under this name or address.
    Server(&'a str),
    /// A device or a controller.
    Client,
}

fn params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    // From 1970 on: a gateway without a clock battery must not find its broker's certificate to be of the future.
    params.not_before = date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(DAYS * 86_400);
    Ok(params)
}

fn authority_params() -> Result<CertificateParams> {
    let mut params = params(NAME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

impl Authority {
    /// A new one in memory.
    pub(crate) fn draw() -> Result<(Self, String)> {
        let key = KeyPair::generate()?;
        let certificate = authority_params()?.self_signed(&key)?.pem();
        let secret = key.serialize_pem();
        Ok((Self { issuer: Issuer::new(authority_params()?, key), certificate }, secret))
    }

    /// The one in `folder`, made there if there is none.
    pub(crate) fn open_or_create(folder: &Path) -> Result<Self> {
        if !folder.join("ca.key").exists() {
            let (authority, secret) = Self::draw()?;
            write_new(&folder.join("ca.key"), &secret, 0o600)?;
            write_new(&folder.join("ca.pem"), &authority.certificate, 0o644)?;
            return Ok(authority);
        }
        Self::open(folder)
    }

    /// The one in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|error| {
                Fail::new(Exit::Input, format!("{}: {error}", path.display()))
                    .hint("`hone-fleet broker write FOLDER` makes an authority")
            })
        };
        let (certificate, secret) = (read("ca.pem")?, read("ca.key")?);
        Ok(Self { issuer: Issuer::new(authority_params()?, KeyPair::from_pem(&secret)?), certificate })
    }

    /// Signs a new certificate for `name`.
    pub(crate) fn issue(&self, name: &str, purpose: Purpose) -> Result<Issued> {
        let mut params = params(name)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let (usage, names) = match purpose {
            Purpose::Server(host) => (ExtendedKeyUsagePurpose::ServerAuth, vec![host.to_owned()]),
            Purpose::Client => (ExtendedKeyUsagePurpose::ClientAuth, Vec::new()),
        };
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        let key = KeyPair::generate()?;
        Ok(Issued { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// Writes a file that must not be there yet.
pub(crate) fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = |error: io::Error| {
        let fail = Fail::new(Exit::Disk, format!("cannot write {}: {error}", path.display()));
        if error.kind() == io::ErrorKind::AlreadyExists {
            fail.hint("it is never overwritten: name another folder, or remove it")
        } else {
            fail
        }
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(())
}

/// A folder, made for its owner alone if it is not there; its full path.
pub(crate) fn folder(path: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |error: io::Error| {
        Fail::new(Exit::Disk, format!("cannot make {}: {error}", path.display()))
            .hint("name a folder that may be written")
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    Ok(fs::canonicalize(path).map_err(failed)?)
}
