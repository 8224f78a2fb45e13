//! A module that writes link frames of its own making can reach nothing that is another's: refused, counted, and logged with its name.

use serde_json::{Value, json};
use skerry_cloud::Cloud;
use skerry_tests::{Device, Image, cloud, numbered, to_cloud, wait_connected, wait_for, wait_stored};

const ROUTES: &str = "[restart]\nbackoff_base = \"100ms\"\n[routes]\n\
     one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/hostile/inputs/input1\")'\n\
     up = 'FROM /messages/modules/scribe/* INTO $upstream'\nall = 'FROM /messages/modules/hostile/* INTO $upstream'\n";

fn start() -> (Cloud, Device) {
    let cloud = cloud(&["scribe", "hostile"]);
    let mut device = Device::new(&to_cloud(&cloud, "", ROUTES));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.drop_in("hostile.so", &Image::of("hostile"));
    device.start();
    device.wait_running("scribe");
    device.wait_running("hostile");
    wait_connected(&cloud, "d1/scribe");
    wait_connected(&cloud, "d1/hostile");
    (cloud, device)
}

fn refused(device: &Device) -> u64 {
    device.module("hostile")["scopeRefused"].as_u64().unwrap_or(0)
}

fn attempt(device: &Device, what: Value) {
    device.send("tester", "out", &json!({"body": what}));
}

/// It is counted, and the log names it.
fn expect(device: &Device, what: Value, part: &str) {
    let before = refused(device);
    attempt(device, what.clone());
    wait_for(&format!("{what} is refused"), || (refused(device) > before).then_some(()));
    let line = device.wait_log(part);
    assert!(line.contains("instance=hostile/"), "{line}");
}

fn reported(device: &Device, module: &str) -> Value {
    device.skerry(&["twin", "get", module, "--json"]).json()["reported"].clone()
}

#[test]
fn it_signs_for_itself_only() {
    let (cloud, device) = start();
    let host = cloud.ready().host_name.replace('/', "%2F");
    let audience = |path: &str| json!({"try": "sign", "data": format!("{host}%2Fdevices%2Fd1{path}\n1795456800")});
    let answer = |expected: &str| {
        wait_for(&format!("an answer {expected:?}"), || {
            let sign = reported(&device, "hostile")["sign"].clone();
            sign.to_string().contains(expected).then_some(())
        });
    };
    attempt(&device, audience("%2Fmodules%2Fhostile"));
    // With the key by which the cloud knows it.
    let string = &cloud.ready().modules[1].connection_string;
    let key = string.rsplit_once("SharedAccessKey=").expect("a key").1;
    let signed = format!("{host}%2Fdevices%2Fd1%2Fmodules%2Fhostile\n1795456800");
    answer(&skerry_cloud::sas::derive_key(key, &signed).expect("a digest"));
    assert_eq!(refused(&device), 0);
    for (path, name) in
        [("%2Fmodules%2Fscribe", "d1/modules/scribe"), ("", "devices/d1"), ("%2Fmodules%2Fhostile2", "hostile2")]
    {
        expect(&device, audience(path), "a token for");
        answer(name);
    }
}

#[test]
fn it_answers_no_call_that_was_not_made_to_it() {
    let (_cloud, device) = start();
    let scribe = device.wait_running("scribe");
    // One is open at somebody else while it tries.
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| device.skerry(&["method", "scribe", "hang", "--timeout", "60s"]));
        wait_for("the call is there", || (reported(&device, "scribe")["hangs"] == true).then_some(()));
        expect(&device, json!({"try": "answer"}), "never made to it");
        // All five, and it still hangs: nobody took the forged answer.
        wait_for("all are counted", || (refused(&device) >= 5).then_some(()));
        device.skerry(&["restart", "scribe"]);
        asked.join().unwrap()
    });
    assert!(!asked.out.contains("forged"), "{asked:?}");
    device.wait_after("scribe", scribe.generation);
}

#[test]
fn what_it_reports_is_its_own() {
    let (cloud, device) = start();
    attempt(&device, json!({"try": "report"}));
    wait_for("its own report", || (reported(&device, "hostile")["forged"] == true).then_some(()));
    assert_eq!(reported(&device, "scribe").get("forged"), None);
    assert!(
        cloud
            .wait_until(skerry_tests::DEADLINE, |cloud| {
                (cloud.twin("d1/hostile")["reported"]["forged"] == true).then_some(())
            })
            .is_some()
    );
    assert_eq!(cloud.twin("d1/scribe")["reported"].get("forged"), None);
}

/// There is no frame that names another sender; the nearest is an output that it does not have.
#[test]
fn it_sends_as_itself_only() {
    let (cloud, device) = start();
    expect(&device, json!({"try": "send"}), "a message to output 7");
    device.send("scribe", "output1", &numbered(1));
    wait_stored(&cloud, "d1/scribe", 1);
    assert!(!cloud.stored().contains_key("d1/hostile"));
    assert_eq!(cloud.stored().len(), 1);
}

/// Frames that can't be: the link ends with the sentence that says so, the module is started anew, and nobody else notices.
#[test]
fn frames_that_can_not_be_end_its_link_and_nothing_else() {
    for (what, part) in [("complete", "delivery 1000"), ("garbage", "unknown frame kind 250")] {
        let (cloud, device) = start();
        let scribe = device.wait_running("scribe");
        let hostile = device.wait_running("hostile");
        expect(&device, json!({"try": what}), part);
        device.wait_after("hostile", hostile.generation);
        device.send("scribe", "output1", &numbered(1));
        wait_stored(&cloud, "d1/scribe", 1);
        assert_eq!(device.wait_running("scribe").pid, scribe.pid);
        assert!(!cloud.stored().contains_key("d1/hostile"), "{what}");
    }
}

/// Even where the socket's mode and folder would let it in.
#[test]
fn it_does_not_pass_for_an_operator() {
    use std::os::unix::fs::PermissionsExt;
    let (_cloud, device) = start();
    std::fs::set_permissions(device.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    expect(&device, json!({"try": "control", "socket": device.socket()}), "the control socket");
    let answer = wait_for("its answer", || reported(&device, "hostile")["control"].as_str().map(str::to_owned));
    assert!(answer.contains("403"), "{answer}");
}
