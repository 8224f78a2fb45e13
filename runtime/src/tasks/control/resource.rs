//! The paths of the control socket: what each is, how it may be asked, and with which query.
//! Must never answer anything.

/// Everything that has a path.
pub(super) enum Resource {
    Version,
    Status,
    Modules,
    Module(String),
    Restart(String),
    Twin(String),
    Method(String, String),
    Logs(String),
    Messages(String, String),
    Tap,
    Trace,
    DeadLetters,
    DeadLetter(String),
    ReplayDead,
    PurgeDead,
    Metrics,
    Deployment,
    Images,
    Identities,
    Identity(String),
}

impl Resource {
    pub(super) fn find(path: &[String]) -> Option<Resource> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        Some(match path.as_slice() {
            ["version"] => Resource::Version,
            ["status"] => Resource::Status,
            ["tap"] => Resource::Tap,
            ["trace"] => Resource::Trace,
            ["metrics"] => Resource::Metrics,
            ["dead-letters"] => Resource::DeadLetters,
            ["dead-letters", "replay"] => Resource::ReplayDead,
            ["dead-letters", "purge"] => Resource::PurgeDead,
            ["dead-letters", id] => Resource::DeadLetter((*id).into()),
            ["deployment"] => Resource::Deployment,
            ["images"] => Resource::Images,
            ["modules"] => Resource::Modules,
            ["identities"] => Resource::Identities,
            ["identities", m] => Resource::Identity((*m).into()),
            ["modules", m] => Resource::Module((*m).into()),
            ["modules", m, "restart"] => Resource::Restart((*m).into()),
            ["modules", m, "twin"] => Resource::Twin((*m).into()),
            ["modules", m, "logs"] => Resource::Logs((*m).into()),
            ["modules", m, "methods", name] => Resource::Method((*m).into(), (*name).into()),
            ["modules", m, "outputs", output, "messages"] => Resource::Messages((*m).into(), (*output).into()),
            _ => return None,
        })
    }

    pub(super) fn allow(&self) -> &'static str {
        match self {
            Resource::Restart(_) | Resource::Method(..) | Resource::Messages(..) => "POST",
            Resource::ReplayDead | Resource::PurgeDead => "POST",
            Resource::Twin(_) => "GET, PATCH",
            Resource::Deployment => "GET, POST, DELETE",
            Resource::Images => "GET, POST",
            Resource::Identity(_) => "DELETE",
            _ => "GET",
        }
    }

    pub(super) fn query_keys(&self) -> &'static [&'static str] {
        match self {
            Resource::Method(..) => &["timeout"],
            Resource::Logs(_) => &["follow", "since", "until", "tail"],
            Resource::Tap => &["from", "where"],
            Resource::Deployment => &["dryRun"],
            Resource::Images => &["reference"],
            Resource::Identities => &["hub"],
            Resource::Trace => &["source", "output", "id", "limit"],
            Resource::DeadLetters => &["endpoint", "limit"],
            Resource::ReplayDead | Resource::PurgeDead => &["id", "endpoint", "all"],
            _ => &[],
        }
    }
}
