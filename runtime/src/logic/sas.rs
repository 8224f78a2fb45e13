//! Shared access signatures: how an identity proves itself (spec iot-hub-wire 3). HMAC-SHA256 over the percent-encoded
//! resource and the second of expiry. Must never outlive what it was asked for, and never show the key.

use data_encoding::BASE64;
use ring::hmac;

use super::percent;
use crate::model::identity::Secret;

/// `SharedAccessSignature sr=…&sig=…&se=…` for `resource_uri`, valid until `expires` (seconds since 1970).
pub fn token(key: &Secret, resource_uri: &str, expires: i64) -> String {
    let mut resource = String::new();
    percent::encode(&mut resource, resource_uri);
    let signed = sign(key, format!("{resource}\n{expires}").as_bytes());
    let mut token = format!("SharedAccessSignature sr={resource}&sig=");
    percent::encode(&mut token, &BASE64.encode(&signed));
    token.push_str(&format!("&se={expires}"));
    token
}

/// HMAC-SHA256 of any bytes, as a module asks for it.
pub fn sign(key: &Secret, bytes: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.bytes()), bytes).as_ref().to_vec()
}

/// A device's own key, from that of its enrolment group and its registration id as it is given (spec iot-hub-wire 11).
pub fn derive(group: &Secret, registration: &str) -> Secret {
    Secret::new(sign(group, registration.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn tokens_are_those_of_the_official_sdks() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/data/iot-hub-wire-vectors.json")).unwrap();
        let key = Secret::new(BASE64.decode(vectors["key_base64"].as_str().unwrap().as_bytes()).unwrap());
        let mut checked = 0;
        for case in vectors["sas"].as_array().unwrap() {
            // Policies, and the service SDK's form of them, are not for devices.
            if !case["skn"].is_null() {
                continue;
            }
            let token = token(&key, case["resource_uri"].as_str().unwrap(), vectors["se"].as_i64().unwrap());
            assert_eq!(token, case["token"].as_str().unwrap(), "{}", case["name"]);
            checked += 1;
        }
        assert!(checked >= 5);
    }
}
