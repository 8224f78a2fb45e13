//! Answers of the REST interfaces, and refusals in the two forms that the cloud has for them: IoT Hub's and the
//! provisioning side's. Must never hold a token.

use serde_json::{Value, json};

use crate::clock;

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// JSON; `None` is an empty body.
    pub body: Option<Value>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub status: u16,
    /// The cloud's own word for it, which some clients compare.
    pub code: &'static str,
    pub message: String,
}

pub type Outcome = Result<Reply, Refusal>;

impl Reply {
    pub fn new(status: u16, body: Value) -> Reply {
        Reply { status, headers: Vec::new(), body: Some(body) }
    }

    pub fn empty(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: None }
    }

    pub fn with(mut self, name: &'static str, value: String) -> Reply {
        self.headers.push((name, value));
        self
    }

    /// As it goes over the wire.
    pub fn bytes(&self, phrase: &str, date: &str, close: bool) -> Vec<u8> {
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        let mut head =
            format!("HTTP/1.1 {} {phrase}\r\nDate: {date}\r\nContent-Length: {}\r\n", self.status, body.len());
        if self.body.is_some() {
            head += "Content-Type: application/json; charset=utf-8\r\n";
        }
        for (name, value) in &self.headers {
            // Values are made here, but what a client sent may be a part of them.
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            head += &format!("{name}: {value}\r\n");
        }
        if close {
            head += "Connection: close\r\n";
        }
        (head + "\r\n" + &body).into_bytes()
    }
}

impl Refusal {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into() }
    }

    pub fn argument(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "ArgumentInvalid", message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Refusal {
        Refusal::new(401, "IotHubUnauthorizedAccess", message)
    }

    /// For what is wrong by command.
    pub fn by_command(status: u16) -> Refusal {
        let code = match status {
            401 => "IotHubUnauthorizedAccess",
            403 => "IotHubQuotaExceeded",
            404 => "DeviceNotFound",
            429 => "ThrottlingException",
            503 => "ServiceUnavailable",
            _ => "ServerError",
        };
        Refusal::new(status, code, "by command")
    }

    /// `ErrorCode:DeviceNotFound;Hannover02` and where to look for it.
    pub fn into_reply(self) -> Reply {
        let message = format!("ErrorCode:{};{}", self.code, self.message);
        self.shaped(message, format!("Tracking ID:emulator-TimeStamp:{}", clock::american(clock::unix_ms())))
    }

    /// What concerns a call of a method is JSON in JSON.
    pub fn into_call_reply(self, number: u32, timeout_s: u64) -> Reply {
        let (hours, minutes, seconds) = (timeout_s / 3600, timeout_s / 60 % 60, timeout_s % 60);
        let inner = json!({
            "errorCode": number,
            "trackingId": "emulator",
            "message": self.message,
            "info": {"timeout": format!("{hours:02}:{minutes:02}:{seconds:02}")},
            "timestampUtc": clock::iso(clock::unix_ms()),
        });
        self.shaped(inner.to_string(), String::new())
    }

    fn shaped(&self, message: String, exception: String) -> Reply {
        let body = json!({"Message": message, "ExceptionMessage": exception});
        Reply::new(self.status, body).with("iothub-errorcode", self.code.to_owned())
    }
}

/// Of the provisioning side.
pub fn provisioning_error(number: u32, message: &str) -> Value {
    json!({
        "errorCode": number,
        "trackingId": "emulator",
        "message": message,
        "timestampUtc": clock::iso(clock::unix_ms()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_clouds_form() {
        let reply = Refusal::new(404, "DeviceNotFound", "d\r\n1").into_reply();
        let body = reply.body.clone().unwrap_or_default();
        assert_eq!(body["Message"], "ErrorCode:DeviceNotFound;d\r\n1");
        let text = String::from_utf8(reply.bytes("Not Found", "now", true)).expect("text");
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\nDate: now\r\n"), "{text}");
        assert!(
            text.contains("iothub-errorcode: DeviceNotFound\r\n") && text.contains("Connection: close\r\n"),
            "{text}"
        );
        let reply = Refusal::new(504, "GatewayTimeout", "late").into_call_reply(504_101, 65);
        let inner = reply.body.unwrap_or_default()["Message"].as_str().map(str::to_owned).unwrap_or_default();
        let inner: Value = serde_json::from_str(&inner).expect("JSON in JSON");
        assert_eq!((&inner["errorCode"], &inner["info"]["timeout"]), (&json!(504_101), &json!("00:01:05")));
    }

    #[test]
    fn what_a_client_sent_ends_no_header() {
        let reply = Reply::empty(204).with("ETag", "a\r\nX: 1".to_owned());
        let text = String::from_utf8(reply.bytes("No Content", "now", false)).expect("text");
        assert!(text.contains("ETag: aX: 1\r\n"), "{text}");
    }
}
