//! Requests under nonsense: nearly right ones, with a token that opens everything. None may end the emulator.

use std::sync::Arc;

use super::{POLICY, Step};
use crate::clock::unix_ms;
use crate::dps::Dps;
use crate::journal::Journal;
use crate::peer::Peer;
use crate::sas;
use crate::upgrade::{Request, Route};
use crate::world::World;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

const GOOD: &[(&str, &str)] = &[
    (
        "PUT /devices/d/modules/n",
        r#"{"moduleId":"n","authentication":{"type":"sas","symmetricKey":{"primaryKey":null}}}"#,
    ),
    ("PUT /devices/e", r#"{"deviceId":"e","status":"enabled","capabilities":{"iotEdge":true},"parentScopes":[]}"#),
    ("GET /devices", ""),
    ("DELETE /devices/d/modules/m", ""),
    ("PATCH /twins/d/modules/m", r#"{"tags":{"a":{"b":1}},"properties":{"desired":{"a":{"b":[1,{"c":null}]}}}}"#),
    ("PUT /twins/d", r#"{"tags":{"a":null},"properties":{"desired":{"a":{"b":"c"}}}}"#),
    ("POST /twins/d/methods", r#"{"methodName":"a","payload":{},"responseTimeoutInSeconds":5}"#),
    ("POST /devices/d/applyConfigurationContent", r#"{"modulesContent":{"m":{"properties.desired":{"a":1}}}}"#),
    ("POST /devices/query", r#"{"query":"SELECT * FROM devices WHERE tags.a.b = 1 AND deviceId != 'é'"}"#),
    ("GET /statistics/devices", ""),
    ("PUT /scope/registrations/r1/register", r#"{"registrationId":"r1"}"#),
    ("GET /scope/registrations/r1/operations/5.skerry.1", ""),
];

fn status(world: &mut World, head: &[u8], body: &[u8]) -> Option<u16> {
    let request = Request::parse(head).ok()??;
    let Route::Rest(resource) = request.route() else { return Some(404) };
    match world.ask(&request, &resource, body) {
        Step::Reply(reply) => {
            reply.bytes("", "", false);
            Some(reply.status)
        }
        Step::Call(_) => Some(200),
    }
}

#[test]
fn nonsense_is_refused_and_nothing_else() {
    let new = || {
        let peer = |module| Peer::new("d", module, [KEY.to_owned(), KEY.to_owned()]);
        let peers = vec![peer(None), peer(Some("m"))];
        let mut world = World::new("hub", peers, Dps::new("scope", KEY.to_owned()), Arc::new(Journal::default()));
        world.policy_key = KEY.to_owned();
        world
    };
    let expiry = unix_ms() / 1000 + 600;
    let all = sas::sign("hub", KEY, expiry).expect("a token") + "&skn=" + POLICY;
    let derived = sas::derive_key(KEY, "r1").expect("a key");
    let own = sas::sign("scope/registrations/r1", &derived, expiry).expect("a token");
    let head = |line: &str| {
        let token = if line.contains("/scope/") { &own } else { &all };
        let version = "?api-version=2021-04-12";
        format!("{line}{version} HTTP/1.1\r\nIf-None: 1\r\nAuthorization: {token}\r\n\r\n").into_bytes()
    };
    let mut world = new();
    for (line, body) in GOOD.iter().filter(|(line, _)| !line.starts_with("DELETE")) {
        let status = status(&mut world, &head(line), body.as_bytes());
        assert!(matches!(status, Some(200..300)) || line.contains("PATCH"), "{line}: {status:?}");
    }
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).expect("small")
    };
    let mut refused = 0;
    for round in 0..6_000 {
        if round % 500 == 0 {
            world = new();
        }
        let (line, body) = GOOD[random(GOOD.len())];
        let (line_length, mut head, mut body) = (line.len() + 10, head(line), body.as_bytes().to_vec());
        for _ in 0..=random(3) {
            let (bytes, within) = if random(3) == 0 || body.is_empty() {
                (&mut head, line_length)
            } else {
                let length = body.len();
                (&mut body, length)
            };
            let at = random(within.min(bytes.len()));
            match random(3) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes.insert(at, random(256) as u8),
                _ => drop(bytes.remove(at)),
            }
        }
        refused += usize::from(status(&mut world, &head, &body).is_some_and(|status| status >= 400));
        assert!(world.peers.len() < 2_000);
    }
    assert!(refused > 1_000);
}
