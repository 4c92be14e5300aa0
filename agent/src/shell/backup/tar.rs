//! Just enough of the ustar format to write and read a backup with: plain files, short names. Any `tar` reads it too.
//!
//! Source: POSIX.1-1988, IEEE Std 1003.1, the ustar interchange format.
use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// Longest name of the format without a prefix.
const NAME_BYTES_MAX: usize = 100;

/// Writes one file.
pub(super) fn write_file(to: &mut impl Write, name: &str, bytes: u64, content: &mut impl Read) -> io::Result<()> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {reason}"));
    if name.len() >= NAME_BYTES_MAX || !name.is_ascii() {
        return Err(invalid("its name is too long for a backup"));
    }
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{bytes:011o}\0"));
    put(136, "00000000000\0");
    // The sum is made over a header whose own place is spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    to.write_all(&header)?;
    let copied = io::copy(&mut content.take(bytes), to)?;
    if copied != bytes {
        return Err(invalid("it became shorter while it was read"));
    }
    to.write_all(&[0; BLOCK][..padding(bytes)])
}

/// Ends the archive.
pub(super) fn finish(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

/// Name and size of the next file; its content follows, then [`skip_padding`]. None at the end.
pub(super) fn next_file(from: &mut impl Read) -> io::Result<Option<(String, u64)>> {
    let mut header = [0_u8; BLOCK];
    from.read_exact(&mut header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it is empty, or ends too early"),
        _ => error,
    })?;
    if header == [0; BLOCK] {
        return Ok(None);
    }
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let text = |from: usize, length: usize| {
        let field = &header[from..from + length];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
        std::str::from_utf8(&field[..end]).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let sum: u32 =
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    if &header[257..262] != b"ustar" || u32::from_str_radix(&text(148, 8), 8) != Ok(sum) {
        return Err(invalid("it is no backup of hone, or it is damaged"));
    }
    if !matches!(header[156], b'0' | 0) {
        return Err(invalid("it holds something other than plain files"));
    }
    let bytes = u64::from_str_radix(&text(124, 12), 8).map_err(|_| invalid("a size in it is no number"))?;
    Ok(Some((text(0, NAME_BYTES_MAX), bytes)))
}

/// Skips what follows a file of `bytes`.
pub(super) fn skip_padding(from: &mut impl Read, bytes: u64) -> io::Result<()> {
    from.read_exact(&mut [0; BLOCK][..padding(bytes)])
}

fn padding(bytes: u64) -> usize {
    let over = usize::try_from(bytes % BLOCK as u64).expect("below 512");
    (BLOCK - over) % BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_as_they_were_and_damage_is_noticed() {
        let files: [(&str, &[u8]); 3] = [("a.json", b"{}"), ("models/x", &[7; 512]), ("empty", b"")];
        let mut archive = Vec::new();
        for (name, content) in files {
            write_file(&mut archive, name, content.len() as u64, &mut &*content).unwrap();
        }
        finish(&mut archive).unwrap();
        assert_eq!(archive.len() % BLOCK, 0);
        let mut from = archive.as_slice();
        for (name, content) in files {
            assert_eq!(next_file(&mut from).unwrap(), Some((name.to_owned(), content.len() as u64)));
            let mut read = vec![0; content.len()];
            from.read_exact(&mut read).unwrap();
            assert_eq!(read, content);
            skip_padding(&mut from, content.len() as u64).unwrap();
        }
        assert_eq!(next_file(&mut from).unwrap(), None);
        archive[3] ^= 1;
        assert!(next_file(&mut archive.as_slice()).is_err());
        assert!(next_file(&mut &archive[..100]).is_err());
        assert!(write_file(&mut Vec::new(), &"x".repeat(100), 0, &mut io::empty()).is_err());
        assert!(write_file(&mut Vec::new(), "x", 5, &mut &b"abc"[..]).is_err());
    }
}
