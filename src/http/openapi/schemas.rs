//! The schemas that operations refer to by name.

use serde_json::{Value, json};
use utoipa::openapi::schema::{Components, ComponentsBuilder};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::super::admin::Status;
use super::super::problem;

/// A schema from its JSON, as far as utoipa's model goes.
pub(super) fn schema(json: Value) -> RefOr<Schema> {
    serde_json::from_value(json).unwrap_or_else(|_| RefOr::T(Schema::default()))
}

pub(super) fn components() -> Components {
    let mut components = ComponentsBuilder::new();
    for (name, json) in written() {
        components = components.schema(name, schema(json));
    }
    // The admin listener's documents, from their types.
    let mut derived = vec![(Status::name().into_owned(), Status::schema())];
    Status::schemas(&mut derived);
    components.schemas_from_iter(derived).build()
}

/// Schemas of objects with one of these fields.
fn without(fields: &[&str]) -> Vec<Value> {
    fields.iter().map(|field| json!({ "required": [field] })).collect()
}

/// Those that no type of ours stands for: what callers send, and what GMFY answers.
pub(super) fn written() -> Vec<(&'static str, Value)> {
    let text = json!({ "type": "string", "minLength": 1 });
    let optional = json!({ "type": ["string", "null"] });
    let action = json!({ "type": ["string", "null"], "minLength": 1 });
    let string = json!({ "type": "string" });
    let id = json!({ "type": "string", "format": "uuid" });
    let kinds: Vec<_> = problem::described()
        .map(|kind| format!("urn:gmfy-sidecar:problem:{}", kind.name))
        .collect();
    let count = json!({ "type": "integer", "minimum": 0 });
    let sequence = json!({ "type": ["integer", "null"], "minimum": 1 });
    let list = |of: &str| json!({ "type": "array", "items": { "$ref": format!("#/components/schemas/{of}") } });
    vec![
        (
            "WireEvent",
            json!({
                "type": "object",
                "description": "As GMFY takes it; goes on byte for byte. An action stands before \
                                its type, as in `create_subscription`.",
                "required": ["userId", "type"],
                "properties": { "userId": text, "type": text, "idempotenceKey": optional },
                "not": { "anyOf": without(&[
                    "user_id", "event_type", "eventType", "event_action", "eventAction",
                    "idempotence_key",
                ]) },
            }),
        ),
        (
            "InputEvent",
            json!({
                "type": "object",
                "description": "As applications hand it to GMFY's client; becomes the wire form. \
                                Every field, of the wire form too, may be in snake_case or in camelCase, but in one spelling only.",
                "required": ["user_id", "event_type"],
                "properties": {
                    "user_id": text, "event_type": text, "event_action": action,
                    "idempotence_key": optional,
                },
                "not": { "anyOf": without(&[
                    "userId", "type", "eventType", "eventAction", "idempotenceKey",
                ]) },
            }),
        ),
        (
            "Event",
            json!({
                "description": "Fields that aren't ours are never changed.",
                "anyOf": [
                    { "$ref": "#/components/schemas/WireEvent" },
                    { "$ref": "#/components/schemas/InputEvent" },
                ],
            }),
        ),
        ("Events", list("Event")),
        (
            "Accepted",
            json!({
                "type": "object",
                "required": ["accepted", "duplicates", "first_sequence", "last_sequence"],
                "properties": {
                    "accepted": count, "duplicates": count,
                    "first_sequence": sequence, "last_sequence": sequence,
                    "errors": list("EventError"), "errors_omitted": count,
                },
            }),
        ),
        (
            "EventError",
            json!({
                "type": "object",
                "required": ["index", "pointer", "message"],
                "properties": {
                    "index": count,
                    "pointer": {
                        "type": "string",
                        "description": "A JSON Pointer (RFC 6901) inside the event.",
                    },
                    "message": string,
                    "suggestion": string,
                },
            }),
        ),
        (
            "Problem",
            json!({
                "type": "object",
                "description": "A problem document (RFC 9457).",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": { "type": "string", "enum": kinds },
                    "title": string,
                    "status": { "type": "integer", "minimum": 400, "maximum": 599 },
                    "detail": string,
                    "errors": list("EventError"),
                    "errors_omitted": count,
                },
            }),
        ),
        (
            "Payment",
            json!({
                "type": "object",
                "required": ["amount", "confirmation", "userId"],
                "properties": {
                    "amount": {
                        "type": "object",
                        "required": ["value", "currency"],
                        "properties": {
                            "value": { "type": "number", "exclusiveMinimum": 0 },
                            "currency": string,
                        },
                    },
                    "confirmation": {
                        "type": "object",
                        "required": ["returnUrl"],
                        "properties": { "returnUrl": string },
                    },
                    "userId": text,
                    "description": optional,
                    "locale": { "type": "string", "enum": ["RU", "EN"] },
                },
            }),
        ),
        (
            "CreatedPayment",
            json!({
                "type": "object",
                "properties": {
                    "id": id, "clientId": id, "status": string, "confirmationUrl": string,
                },
            }),
        ),
        (
            "PaymentDetails",
            json!({
                "type": "object",
                "properties": {
                    "id": id, "clientId": id, "value": { "type": "number" }, "returnUrl": string,
                    "description": optional, "currency": string, "status": string,
                    "locale": string, "expiresIn": { "type": "integer" },
                },
            }),
        ),
        (
            "User",
            json!({
                "type": "object",
                "properties": {
                    "userId": string, "clientId": id,
                    "userRatings": list("Object"), "userChallenges": list("Object"),
                    "userBadges": list("Object"), "userFeatures": list("Object"),
                    "userAccountBalances": list("Object"),
                },
            }),
        ),
        ("Users", list("User")),
        ("Any", json!({ "description": "Any JSON." })),
        ("Object", json!({ "type": "object", "description": "As GMFY documents it." })),
        ("Objects", list("Object")),
        (
            "Notifications",
            json!({
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": { "userId": string, "clientId": id, "message": string },
                },
            }),
        ),
        (
            "Version",
            json!({
                "type": "object",
                "properties": {
                    "version": string,
                    "deploymentDate": { "type": "string", "format": "date-time" },
                },
            }),
        ),
        ("NoOptions", json!({ "type": "object", "additionalProperties": false })),
        (
            "ResumeOptions",
            json!({
                "type": "object",
                "properties": { "dead_letter_rejected": { "type": "boolean" } },
                "additionalProperties": false,
            }),
        ),
        (
            "LogLevel",
            json!({
                "type": "object",
                "required": ["level"],
                "properties": {
                    "level": {
                        "type": "string",
                        "enum": ["error", "warn", "info", "debug", "trace", "off"],
                        "description": "Directives such as `info,hyper=debug`, too.",
                    },
                },
                "additionalProperties": false,
            }),
        ),
        (
            "ShownLogLevel",
            json!({
                "type": "object",
                "required": ["level"],
                "properties": { "level": optional },
            }),
        ),
        (
            "Remaining",
            json!({
                "type": "object",
                "required": ["remaining"],
                "properties": { "remaining": count },
            }),
        ),
        (
            "DeadLetter",
            json!({
                "type": "object",
                "required": ["seq", "reason", "attempts", "accepted_at", "dead_lettered_at", "event"],
                "properties": {
                    "seq": count, "reason": string, "status": { "type": ["integer", "null"] },
                    "answer": optional, "attempts": count, "accepted_at": string,
                    "dead_lettered_at": string,
                    "event": { "type": "object" },
                },
            }),
        ),
        (
            "DeadLetters",
            json!({
                "type": "object",
                "required": ["dead_letters", "next"],
                "properties": { "dead_letters": list("DeadLetter"), "next": sequence },
            }),
        ),
        (
            "Requeued",
            json!({
                "type": "object",
                "required": ["requeued"],
                "properties": {
                    "requeued": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["seq", "new_seq"],
                            "properties": { "seq": count, "new_seq": count },
                        },
                    },
                },
            }),
        ),
        (
            "Discarded",
            json!({
                "type": "object",
                "required": ["discarded"],
                "properties": { "discarded": count },
            }),
        ),
        (
            "EventState",
            json!({
                "type": "object",
                "required": ["seq", "state"],
                "properties": {
                    "seq": count,
                    "state": {
                        "type": "string",
                        "enum": [
                            "queued", "in_flight", "delivered", "dead_lettered", "dropped",
                            "settled", "unknown",
                        ],
                    },
                    "attempts": count,
                    "status": { "type": ["integer", "null"] },
                },
            }),
        ),
    ]
}
