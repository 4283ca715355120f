//! What the API's answers mean to those of us who are its clients.

use kube::core::Status;

fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

pub fn is_not_found(error: &kube::Error) -> bool {
    status(error).is_some_and(Status::is_not_found)
}

pub fn is_conflict(error: &kube::Error) -> bool {
    status(error).is_some_and(Status::is_conflict)
}

pub fn is_already_exists(error: &kube::Error) -> bool {
    status(error).is_some_and(Status::is_already_exists)
}

pub fn is_invalid(error: &kube::Error) -> bool {
    status(error).is_some_and(Status::is_invalid)
}

/// True if the object could not be created because its namespace is being deleted (ES20): not worth another try.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    status(error)
        .and_then(|status| status.details.as_ref())
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}

/// The answer to a write or deletion of an object that somebody else may have deleted first: `None` if so.
///
/// # Errors
/// Every other one.
pub fn unless_gone<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Err(e) if is_not_found(&e) => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_that_is_gone_is_no_error_and_one_that_was_replaced_is() {
        let refused = |code, reason| Err(kube::Error::Api(Status::failure("no", reason).with_code(code).boxed()));
        assert!(matches!(unless_gone(Ok(1)), Ok(Some(1))));
        assert!(matches!(unless_gone::<u8>(refused(404, "NotFound")), Ok(None)));
        assert!(is_conflict(&unless_gone::<u8>(refused(409, "Conflict")).unwrap_err()));
    }
}
