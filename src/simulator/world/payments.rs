//! Payments.
//!
//! A payment is created as `CREATED`. Each time its details are read it moves on after the
//! answer: the first read shows `CREATED`, the second `PENDING`, the third and all later ones
//! `SUCCEEDED`. To resend the code of one that hasn't succeeded puts it back to `PENDING`, with
//! its time to expiry renewed. Each read takes a minute off that time; what has succeeded doesn't
//! expire (0). The newest payments are kept.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::id::Id;

/// How many payments are kept.
const PAYMENTS_MAX: usize = 10_000;
/// The time to expiry of a new payment, in seconds.
const EXPIRES_IN: u64 = 900;
/// What a read takes off it.
const EXPIRY_STEP: u64 = 60;

/// A payment as it is asked for; custom classes may add fields.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::simulator) struct PaymentRequest {
    amount: Amount,
    confirmation: Confirmation,
    user_id: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    locale: Locale,
}

#[derive(Debug, Deserialize)]
struct Amount {
    value: Number,
    currency: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Confirmation {
    return_url: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Locale {
    #[default]
    Ru,
    En,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Created,
    Pending,
    Succeeded,
}

/// The answer to a payment's creation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::simulator) struct CreatedPayment {
    id: Id,
    client_id: Id,
    status: Status,
    confirmation_url: String,
}

/// The answer to the other calls.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::simulator) struct PaymentDetails {
    id: Id,
    client_id: Id,
    value: Number,
    return_url: String,
    description: Option<String>,
    currency: String,
    status: Status,
    locale: Locale,
    expires_in: u64,
}

/// All payments.
#[derive(Debug)]
pub(in crate::simulator) struct Payments {
    seed: u64,
    client: Id,
    created: u64,
    by_id: HashMap<Id, PaymentDetails>,
    order: VecDeque<Id>,
}

impl PaymentRequest {
    /// Parses the body of a payment's creation.
    pub(in crate::simulator) fn parse(body: &[u8]) -> Result<Self, String> {
        let request: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if request.user_id.is_empty() {
            return Err("userId is empty".to_owned());
        }
        if request.amount.value.as_f64().is_none_or(|value| value <= 0.0) {
            return Err("amount.value is not above 0".to_owned());
        }
        Ok(request)
    }
}

impl Payments {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            client: Id::of(seed, "client"),
            created: 0,
            by_id: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Creates a payment, a new one each time.
    pub(in crate::simulator) fn create(&mut self, request: PaymentRequest) -> CreatedPayment {
        self.created += 1;
        let id = Id::of(self.seed, &format!("payment/{}", self.created));
        let details = PaymentDetails {
            id,
            client_id: self.client,
            value: request.amount.value,
            return_url: request.confirmation.return_url,
            description: request.description,
            currency: request.amount.currency,
            status: Status::Created,
            locale: request.locale,
            expires_in: EXPIRES_IN,
        };
        if self.order.len() == PAYMENTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        self.order.push_back(id);
        self.by_id.insert(id, details);
        CreatedPayment {
            id,
            client_id: self.client,
            status: Status::Created,
            confirmation_url: format!("https://pay.example.com/confirm/{id}"),
        }
    }

    /// Shows a payment, then moves it on.
    pub(in crate::simulator) fn read(&mut self, id: Id) -> Option<PaymentDetails> {
        let payment = self.by_id.get_mut(&id)?;
        let shown = payment.clone();
        match payment.status {
            Status::Created => {
                payment.status = Status::Pending;
                payment.expires_in = payment.expires_in.saturating_sub(EXPIRY_STEP);
            }
            Status::Pending => {
                payment.status = Status::Succeeded;
                payment.expires_in = 0;
            }
            Status::Succeeded => {}
        }
        Some(shown)
    }

    /// Sends the code again, and shows the payment after that.
    pub(in crate::simulator) fn resend_code(&mut self, id: Id) -> Option<PaymentDetails> {
        let payment = self.by_id.get_mut(&id)?;
        if payment.status != Status::Succeeded {
            payment.status = Status::Pending;
            payment.expires_in = EXPIRES_IN;
        }
        Some(payment.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> PaymentRequest {
        PaymentRequest::parse(
            br#"{"amount":{"value":100.0,"currency":"USD"},"confirmation":{"returnUrl":"u"},
                "userId":"1","extra":1}"#,
        )
        .unwrap()
    }

    fn status(details: Option<PaymentDetails>) -> (Status, u64) {
        details.map(|details| (details.status, details.expires_in)).unwrap()
    }

    #[test]
    fn a_payment_moves_on_each_time_it_is_read() {
        let mut payments = Payments::new(1);
        let id = payments.create(request()).id;
        assert_eq!(status(payments.read(id)), (Status::Created, 900));
        assert_eq!(status(payments.read(id)), (Status::Pending, 840));
        assert_eq!(status(payments.read(id)), (Status::Succeeded, 0));
        assert_eq!(status(payments.resend_code(id)), (Status::Succeeded, 0));
    }

    #[test]
    fn a_code_sent_again_renews_the_time() {
        let mut payments = Payments::new(1);
        let id = payments.create(request()).id;
        payments.read(id);
        assert_eq!(status(payments.resend_code(id)), (Status::Pending, 900));
    }

    #[test]
    fn only_the_newest_payments_are_kept() {
        let mut payments = Payments::new(1);
        let first = payments.create(request()).id;
        for _ in 0..PAYMENTS_MAX {
            payments.create(request());
        }
        assert_eq!(payments.by_id.len(), PAYMENTS_MAX);
        assert!(payments.read(first).is_none());
    }

    #[test]
    fn a_payment_without_what_it_needs_is_refused() {
        for body in [
            "",
            "{}",
            r#"{"amount":{"value":0,"currency":"USD"},"confirmation":{"returnUrl":"u"},"userId":"1"}"#,
            r#"{"amount":{"value":1,"currency":"USD"},"confirmation":{"returnUrl":"u"},"userId":""}"#,
            r#"{"amount":{"value":1,"currency":"USD"},"confirmation":{},"userId":"1"}"#,
            r#"{"amount":{"value":1,"currency":"USD"},"confirmation":{"returnUrl":"u"},"userId":"1","locale":"XX"}"#,
        ] {
            assert!(PaymentRequest::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
