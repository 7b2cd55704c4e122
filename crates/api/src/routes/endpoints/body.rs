//! The bodies of requests about endpoints. All invalid fields are reported at once.

use std::time::Duration;

use serde::Deserialize;
use service::{
    manage::{OVERLAP, OVERLAP_DEFAULT, Registration, Rotation},
    relay::NewRelay,
};
use signature::Secret;
use store::EndpointChange;
use utoipa::ToSchema;
use webhook::{OrganizationId, ProjectId, Subscription, valid_id};
use wire::schema::PATTERNS_MAX;

use crate::{
    extract::{Checked, present},
    problem::{FieldError, Problem},
};

/// An endpoint to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct CreateEndpoint {
    /// The URL that events are delivered to: https, at a public address, without user and fragment.
    #[schema(
        format = "uri",
        min_length = 1,
        max_length = 2048,
        example = "https://example.com/webhook"
    )]
    pub(super) url: String,
    /// The event types to deliver; all of them if this is absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = wire::schema::patterns, required = false)]
    events: Option<Vec<String>>,
    /// Deliver only this project's events.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "proj_456def"
    )]
    project_id: Option<String>,
}

/// A relay to open.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct OpenRelay {
    /// The event types to deliver; all of them if this is absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = wire::schema::patterns, required = false)]
    events: Option<Vec<String>>,
    /// Deliver only this project's events.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "proj_456def"
    )]
    project_id: Option<String>,
}

/// The fields to change; at least one is required.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct UpdateEndpoint {
    /// The URL that events are delivered to.
    #[serde(default, deserialize_with = "present")]
    #[schema(
        format = "uri",
        min_length = 1,
        max_length = 2048,
        example = "https://example.com/webhook",
        nullable = false
    )]
    pub(super) url: Option<String>,
    /// The event types to deliver.
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = wire::schema::patterns, required = false)]
    events: Option<Vec<String>>,
    /// Deliver only this project's events; null delivers those of all projects.
    #[serde(default, deserialize_with = "present")]
    #[schema(
        value_type = Option<String>,
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "proj_456def"
    )]
    #[expect(
        clippy::option_option,
        reason = "an absent field and null mean different things"
    )]
    project_id: Option<Option<String>>,
}

/// How to replace a secret.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct RotateSecret {
    /// The new secret, instead of a random one: `whsec_` and the base64 of 24 to 64 bytes.
    #[serde(default, deserialize_with = "present")]
    #[schema(
        min_length = 38,
        max_length = 94,
        nullable = false,
        example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
    )]
    secret: Option<String>,
    /// How long the old secret stays valid, in seconds; by default a day.
    #[serde(default, deserialize_with = "present")]
    #[schema(minimum = 1, maximum = 2_592_000, nullable = false, example = 86_400)]
    overlap_s: Option<u64>,
    /// Revoke the old secret at once, for example because it was disclosed.
    #[serde(default)]
    #[schema(required = false, default = false)]
    revoke_now: bool,
}

impl CreateEndpoint {
    /// Returns the registration, or the errors of all fields but the URL, which may need a lookup.
    pub(super) fn registration(
        self,
        organization_id: OrganizationId,
    ) -> Result<Registration, Vec<FieldError>> {
        let (subscription, project_id) = wanted(self.events.as_deref(), self.project_id)?;
        Ok(Registration {
            organization_id,
            project_id,
            url: self.url,
            subscription,
        })
    }
}

impl OpenRelay {
    pub(super) fn relay(self, organization_id: OrganizationId) -> Result<NewRelay, Problem> {
        let (subscription, project_id) =
            wanted(self.events.as_deref(), self.project_id).map_err(Problem::fields)?;
        Ok(NewRelay {
            organization_id,
            project_id,
            subscription,
        })
    }
}

impl UpdateEndpoint {
    /// Returns the change, or the errors of all fields but the URL, which may need a lookup.
    pub(super) fn change(self) -> Result<EndpointChange, Vec<FieldError>> {
        let mut errors = Vec::new();
        if self.url.is_none() && self.events.is_none() && self.project_id.is_none() {
            errors.push(FieldError::at("", "expected url, events or project_id"));
        }
        let change = EndpointChange {
            subscription: self.events.and_then(|events| subscription(&events, &mut errors)),
            project_id: self.project_id.map(|project_id| project(project_id, &mut errors)),
            url: self.url,
        };
        if errors.is_empty() {
            Ok(change)
        } else {
            Err(errors)
        }
    }
}

impl RotateSecret {
    /// Returns the rotation. Errors do not quote the secret.
    pub(super) fn rotation(self) -> Result<Rotation, Problem> {
        let (secret, errors) = self.checked();
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        let overlap = self.overlap_s.map_or(OVERLAP_DEFAULT, Duration::from_secs);
        Ok(Rotation {
            secret,
            overlap: (!self.revoke_now).then_some(overlap),
        })
    }

    /// Returns the secret, and the errors of all fields.
    fn checked(&self) -> (Option<Secret>, Vec<FieldError>) {
        let mut errors = Vec::new();
        let secret = self.secret.as_deref().map(Secret::parse).transpose();
        let secret = secret.unwrap_or_else(|error| {
            errors.push(FieldError::at("/secret", error.to_string()));
            None
        });
        let overlap = self.overlap_s.map(Duration::from_secs);
        if overlap.is_some_and(|overlap| !OVERLAP.contains(&overlap)) {
            let (least, most) = (OVERLAP.start().as_secs(), OVERLAP.end().as_secs());
            errors.push(FieldError::at(
                "/overlap_s",
                format!("expected an integer from {least} to {most}"),
            ));
        }
        if self.revoke_now && overlap.is_some() {
            errors.push(FieldError::at(
                "/revoke_now",
                "expected false if overlap_s is given, because revoke_now leaves no overlap",
            ));
        }
        (secret, errors)
    }
}

impl Checked for CreateEndpoint {
    fn errors(&self) -> Vec<FieldError> {
        wanted(self.events.as_deref(), self.project_id.clone())
            .err()
            .unwrap_or_default()
    }
}

impl Checked for OpenRelay {
    fn errors(&self) -> Vec<FieldError> {
        wanted(self.events.as_deref(), self.project_id.clone())
            .err()
            .unwrap_or_default()
    }
}

impl Checked for UpdateEndpoint {
    fn errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(events) = &self.events {
            subscription(events, &mut errors);
        }
        project(self.project_id.clone().flatten(), &mut errors);
        errors
    }
}

impl Checked for RotateSecret {
    fn errors(&self) -> Vec<FieldError> {
        self.checked().1
    }
}

/// Returns which events a new endpoint gets, by default all, or the errors of both fields.
fn wanted(
    events: Option<&[String]>,
    project_id: Option<String>,
) -> Result<(Subscription, Option<ProjectId>), Vec<FieldError>> {
    let mut errors = Vec::new();
    let all = ["*".to_owned()];
    let subscription = subscription(events.unwrap_or(&all), &mut errors);
    let project_id = project(project_id, &mut errors);
    match subscription {
        Some(subscription) if errors.is_empty() => Ok((subscription, project_id)),
        _ => Err(errors),
    }
}

fn subscription(events: &[String], errors: &mut Vec<FieldError>) -> Option<Subscription> {
    if !(1..=PATTERNS_MAX).contains(&events.len()) {
        errors.push(FieldError::at(
            "/events",
            format!("expected 1 to {PATTERNS_MAX} event types"),
        ));
        return None;
    }
    let before = errors.len();
    for (index, pattern) in events.iter().enumerate() {
        if let Err(error) = pattern.parse::<webhook::Pattern>() {
            errors.push(FieldError::at(format!("/events/{index}"), error.to_string()));
        }
    }
    (errors.len() == before)
        .then(|| events.join(",").parse().ok())
        .flatten()
}

fn project(id: Option<String>, errors: &mut Vec<FieldError>) -> Option<ProjectId> {
    let id = id?;
    if let Err(error) = valid_id(&id) {
        errors.push(FieldError::at("/project_id", error.to_string()));
    }
    Some(ProjectId::new(id))
}
