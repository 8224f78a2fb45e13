//! The identities that the hub's registry has for this device, beside what is known here. Must never pass a key on: the registry's answer
//! holds those of all.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::mailbox::Refusal;
use super::world::World;
use super::{registry, views};
use crate::logic::registration::{self, Listed, Request};
use crate::model::identity::Credentials;

/// The rows of [`views::identities`], each with what the hub says of it, and those that only the hub has.
pub async fn list(world: &World, device: &Credentials) -> Result<Value, Refusal> {
    let target = registration::target_of_all(&device.device_id);
    let request = Request { method: "GET", target, if_match: None, body: None };
    let away = |why: String| Refusal::new(502, format!("the hub can't be asked for its identities: {why}"));
    let answer = registry::answer(world, device, &request).await.map_err(away)?;
    if answer.status != 200 {
        return Err(away(format!("its registry answered {}", answer.status)));
    }
    let listed = registration::listed(&answer.body).ok_or_else(|| away("its answer is no list".to_owned()))?;
    Ok(merged(views::identities(world), listed, device))
}

fn merged(known: Value, listed: Vec<Listed>, device: &Credentials) -> Value {
    let mut there: BTreeMap<String, Listed> = listed.into_iter().map(|one| (one.module.clone(), one)).collect();
    let mut rows = match known {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    };
    for row in &mut rows {
        let found = row["module"].as_str().and_then(|module| there.remove(module));
        row["inHub"] = match found {
            None => "no",
            // Made here, and since then by somebody else.
            Some(found) if row["generationId"].as_str().is_some_and(|own| own != found.generation_id) => "another",
            Some(_) => "yes",
        }
        .into();
    }
    rows.extend(there.into_values().map(|one| {
        json!({
            "module": one.module, "identity": format!("{}/{}", device.device_id, one.module), "host": device.host_name,
            "source": "hub", "generationId": one.generation_id, "status": if one.is_connected { "connected" } else { "none" },
            "reason": null, "runs": false, "inHub": "yes",
        })
    }));
    Value::Array(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Secret;

    #[test]
    fn each_row_says_what_the_hub_has() {
        let device =
            Credentials { host_name: "h".into(), device_id: "d".into(), module_id: None, key: Secret::new(vec![1]) };
        let one = |module: &str, generation_id: &str| Listed {
            module: module.into(),
            generation_id: generation_id.into(),
            is_connected: false,
        };
        let known =
            json!([{"module": "a", "generationId": "1"}, {"module": "b", "generationId": "2"}, {"module": "c"}]);
        let rows = merged(known, vec![one("a", "1"), one("b", "3"), one("z", "9")], &device);
        let of = |at: usize| (rows[at]["module"].as_str().unwrap(), rows[at]["inHub"].as_str().unwrap());
        assert_eq!([0, 1, 2, 3].map(of), [("a", "yes"), ("b", "another"), ("c", "no"), ("z", "yes")]);
        assert_eq!((&rows[3]["source"], &rows[3]["identity"]), (&json!("hub"), &json!("d/z")));
    }
}
