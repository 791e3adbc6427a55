//! Text from bytes, as editors and shells leave it: UTF-8, or UTF-16 with a byte order mark, which
//! is what redirection in Windows PowerShell writes.

/// Decodes a file.
///
/// # Errors
/// Why it is not text.
pub fn decode(bytes: Vec<u8>) -> Result<String, String> {
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => utf_16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf_16(rest, u16::from_be_bytes),
        _ => String::from_utf8(bytes).map_err(|error| error.utf8_error().to_string()),
    }
}

fn utf_16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("it is UTF-16 and ends within a character".into());
    }
    let units = pairs.iter().map(|pair| unit(*pair));
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.map_err(|_| "it begins as UTF-16, and is not valid".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::decode;

    proptest! {
        #[test]
        fn each_encoding_is_read(text in "\\PC{0,40}") {
            prop_assert_eq!(decode(text.clone().into_bytes()), Ok(text.clone()));
            let units = || std::iter::once(0xfeff).chain(text.encode_utf16());
            let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
            let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
            prop_assert_eq!(decode(little), Ok(text.clone()));
            prop_assert_eq!(decode(big), Ok(text));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, mark in proptest::sample::select(vec![vec![], vec![0xff, 0xfe], vec![0xfe, 0xff]])) {
            let _ = decode([mark, bytes].concat());
        }
    }
}
