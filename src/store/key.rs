//! Names of stored objects, and the sets of them that a list or a watch covers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of one object. Written `services/default/web`, or `nodes//n1` when it has no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The plural, with the group unless it is the core group: `services`, `endpointslices.discovery.k8s.io`.
    pub resource: Arc<str>,
    /// Empty when the object is cluster-scoped.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
    }
}

/// A text that is not a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an object's key: write RESOURCE/NAMESPACE/NAME, with an empty namespace for cluster-scoped objects"
)]
pub struct KeyError(String);

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(resource), Some(namespace), Some(name)) if !resource.is_empty() && !name.is_empty() => {
                Ok(Self::new(resource, namespace, name))
            }
            _ => Err(KeyError(text.to_owned())),
        }
    }
}

/// What a list or a watch covers: a resource, less what the namespace and the name leave out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub resource: Arc<str>,
    /// `None`: every namespace.
    pub namespace: Option<Arc<str>>,
    /// `None`: every name.
    pub name: Option<Arc<str>>,
}

impl Scope {
    /// Every object of a resource.
    pub fn all(resource: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: None, name: None }
    }

    /// The objects of a resource in one namespace.
    pub fn namespace(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: Some(namespace.into()), name: None }
    }

    /// One object.
    pub fn object(key: &Key) -> Self {
        Self { resource: key.resource.clone(), namespace: Some(key.namespace.clone()), name: Some(key.name.clone()) }
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.resource == key.resource
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
    }

    /// The half-open range of written keys that holds the scope. It may hold more, see [`Self::contains`]:
    /// a name in every namespace is no range.
    pub(super) fn text_range(&self) -> (String, String) {
        // '0' follows '/', and no name holds a control character.
        match (&self.namespace, &self.name) {
            (None, _) => (format!("{}/", self.resource), format!("{}0", self.resource)),
            (Some(namespace), None) => {
                (format!("{}/{namespace}/", self.resource), format!("{}/{namespace}0", self.resource))
            }
            (Some(namespace), Some(name)) => {
                let key = format!("{}/{namespace}/{name}", self.resource);
                let after = format!("{key}\u{1}");
                (key, after)
            }
        }
    }
}
