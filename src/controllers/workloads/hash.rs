//! Names for templates: a short text that is the same for the same template.

use serde::Serialize;

/// Letters and digits that spell no words by accident, as `k8s.io/apimachinery/pkg/util/rand` has them.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template, another one for each count of collisions.
pub(super) fn template_hash(template: &impl Serialize, collisions: Option<i32>) -> String {
    let mut sum = Fnv::default();
    // A template came from the API, so it can be written as JSON; maps are in the order of their keys.
    sum.add(&serde_json::to_vec(template).unwrap_or_default());
    if let Some(count) = collisions.filter(|count| *count != 0) {
        sum.add(&count.to_le_bytes());
    }
    let digits = sum.0.to_string();
    digits.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// FNV-1a with 32 bits.
struct Fnv(u32);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_stable_and_differs_by_collisions() {
        let hash = template_hash(&"template", None);
        assert_eq!(hash, template_hash(&"template", Some(0)));
        assert_ne!(hash, template_hash(&"template", Some(1)));
        assert_ne!(hash, template_hash(&"another", None));
        assert!(hash.bytes().all(|byte| ALPHABET.contains(&byte)), "{hash}");
    }
}
