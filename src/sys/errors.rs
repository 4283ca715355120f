//! Errors in words.

use std::io;

/// An error in lower case and without its number, as programs word it that are not written in Rust.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_the_c_librarys_in_lower_case() {
        assert_eq!(plain(&io::Error::from_raw_os_error(libc::ECONNREFUSED)), "connection refused");
        assert_eq!(plain(&io::Error::other("No Number")), "no number");
    }
}
