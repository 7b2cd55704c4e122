//! The documented operations, and the scope that each one needs.

use std::collections::HashMap;

use axum::http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use webhook::Scope;

use crate::{
    openapi::{METHODS, SECURITY_SCHEME},
    problem::Problem,
};

/// The documented operations and their access requirements.
pub(crate) struct Operations {
    by_path: HashMap<String, Vec<(Method, Access)>>,
}

/// The error for an operation whose documentation does not say who may use it.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no security in the OpenAPI document, or names no known scope")]
pub(crate) struct NoSecurity(String);

/// Who may use an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anyone, without a key. The operation reveals nothing about any customer.
    Open,
    /// Callers whose key has this scope.
    Needs(Scope),
}

impl Operations {
    /// Reads the operations of a complete document.
    ///
    /// # Errors
    /// Returns an error if an operation has no `security`, or names a scope that does not exist.
    pub(crate) fn of(document: &Value) -> Result<Self, NoSecurity> {
        let paths = document["paths"].as_object().expect("a document has paths");
        let mut by_path = HashMap::with_capacity(paths.len());
        for (path, item) in paths {
            let mut operations = Vec::new();
            for name in METHODS {
                let Some(operation) = item.get(name) else { continue };
                let access = access(operation).ok_or_else(|| NoSecurity(format!("{name} {path}")))?;
                let method = name
                    .to_uppercase()
                    .parse()
                    .expect("METHODS contains only names of methods");
                operations.push((method, access));
            }
            by_path.insert(path.clone(), operations);
        }
        Ok(Self { by_path })
    }

    /// Returns what a request needs. `path` is the path template, as in the routes and the document.
    pub(crate) fn access(&self, method: &Method, path: &str) -> Result<Access, Problem> {
        let operations = self.by_path.get(path);
        let operations = operations.ok_or_else(|| Problem::of_status(StatusCode::NOT_FOUND))?;
        // HEAD needs the same access as GET.
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let found = operations.iter().find(|(known, _)| known == method);
        found.map(|(_, access)| *access).ok_or_else(|| {
            let allowed: Vec<_> = operations.iter().map(|(method, _)| method.as_str()).collect();
            let allowed = HeaderValue::from_str(&allowed.join(", ")).expect("methods are tokens");
            Problem::of_status(StatusCode::METHOD_NOT_ALLOWED).with_header(header::ALLOW, allowed)
        })
    }
}

/// Returns the access of an operation; `None` if its `security` is not understood. An empty list opens the
/// operation to anyone. Otherwise, the first requirement must name one scope of the security scheme.
fn access(operation: &Value) -> Option<Access> {
    let security = operation.get("security")?.as_array()?;
    let Some(requirement) = security.first() else {
        return Some(Access::Open);
    };
    let scope = requirement.get(SECURITY_SCHEME)?.get(0)?.as_str()?;
    Some(Access::Needs(scope.parse().ok()?))
}
