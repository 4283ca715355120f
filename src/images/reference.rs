//! Names of images: `[REGISTRY/]PATH[:TAG][@DIGEST]`, as Docker's distribution reads them.

/// A name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub registry: Option<String>,
    /// Without the `library/` that Docker puts before its own.
    pub path: String,
    pub tag: Option<String>,
}

impl Reference {
    /// # Errors
    /// What is wrong with the name.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let name = text.split('@').next().unwrap_or_default();
        let (name, tag) = match name.rsplit_once(':') {
            // A colon before a slash is a registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
            _ => (None, name),
        };
        let registry = registry.map(|registry| if registry == "index.docker.io" { "docker.io" } else { registry });
        let path = match registry {
            None | Some("docker.io") => path.strip_prefix("library/").unwrap_or(path),
            Some(_) => path,
        };
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        };
        if path.is_empty() || !path.split('/').all(word) {
            return Err("an image's name is made of lower-case letters, digits, '.', '_', '-' and '/'");
        }
        if tag
            .is_some_and(|tag| tag.is_empty() || !tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)))
        {
            return Err("a tag is made of letters, digits, '.', '_' and '-'");
        }
        Ok(Self { registry: registry.map(str::to_owned), path: path.to_owned(), tag: tag.map(str::to_owned) })
    }

    /// Whether an entry with this name is meant by a Pod that asks for `wanted`: what the entry leaves out may be any.
    pub(super) fn matches(&self, wanted: &Self) -> bool {
        let registry = |name: &Option<String>| name.clone().unwrap_or_else(|| "docker.io".to_owned());
        let tag = wanted.tag.as_deref().unwrap_or("latest");
        self.path == wanted.path
            && self.tag.as_deref().is_none_or(|own| own == tag)
            && (self.registry.is_none() || registry(&self.registry) == registry(&wanted.registry))
    }

    /// Of two that match, the one that says more counts.
    pub(super) fn weight(&self) -> u8 {
        2 * u8::from(self.tag.is_some()) + u8::from(self.registry.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(entry: &str, wanted: &str) -> bool {
        Reference::parse(entry).unwrap().matches(&Reference::parse(wanted).unwrap())
    }

    #[test]
    fn entry_matches_with_and_without_registry_and_tag() {
        for wanted in ["nginx", "nginx:1.27", "docker.io/library/nginx:1.27-alpine", "ghcr.io/nginx", "nginx@sha256:00"]
        {
            assert!(matches("nginx", wanted), "{wanted}");
        }
        assert!(matches("library/nginx:1.27", "docker.io/nginx:1.27"));
        assert!(matches("myapp:latest", "myapp") && matches("docker.io/myapp", "myapp:dev"));
        assert!(matches("localhost:5000/team/app", "localhost:5000/team/app:v1"));
        for (entry, wanted) in [
            ("nginx:1.27", "nginx:1.28"),
            ("nginx:1.27", "nginx"),
            ("nginx", "bitnami/nginx"),
            ("ghcr.io/nginx", "nginx"),
            ("localhost:5000/app", "localhost:5001/app"),
        ] {
            assert!(!matches(entry, wanted), "{entry} {wanted}");
        }
    }

    #[test]
    fn names_that_no_image_can_have_are_refused() {
        for bad in ["", "MyApp", "a//b", "a b", "app:", "app:a/b/", "app:ü"] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
