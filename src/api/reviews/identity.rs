//! Questions about who somebody is.

use k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus,
};

use super::{Asker, Review};
use crate::api::ApiError;

impl Review for SelfSubjectReview {
    const SINGULAR: &'static str = "selfsubjectreview";

    fn answer(&mut self, asker: &Asker<'_>) -> Result<(), ApiError> {
        self.status = Some(SelfSubjectReviewStatus { user_info: Some(asker.identity.into()) });
        Ok(())
    }
}

impl Review for TokenReview {
    const SINGULAR: &'static str = "tokenreview";

    fn answer(&mut self, asker: &Asker<'_>) -> Result<(), ApiError> {
        if self.spec.token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = self.spec.audiences.clone().filter(|audiences| !audiences.is_empty());
        let audiences = audiences.unwrap_or_else(|| vec![asker.api.audience()]);
        self.status = Some(match asker.api.authenticate_token(&self.spec.token, &audiences) {
            Ok(shown) => TokenReviewStatus {
                audiences: Some(shown.audiences),
                authenticated: Some(true),
                error: None,
                user: Some((&shown.identity).into()),
            },
            Err(error) => TokenReviewStatus { error: Some(error.to_string()), ..TokenReviewStatus::default() },
        });
        Ok(())
    }
}
