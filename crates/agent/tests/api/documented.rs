//! The pages say what the code does.

use clarateach_agent::config::SETTINGS;
use clarateach_agent::routes;
use clarateach_api::agent::AgentErrorCode;
use clarateach_testkit::seat_binary::repository;

fn page(name: &str) -> String {
    std::fs::read_to_string(repository().join("docs").join(name)).unwrap()
}

#[test]
fn every_setting_is_in_the_guide() {
    let guide = page("agent.md");
    for (name, default, _) in SETTINGS {
        let line = guide.lines().find(|line| line.starts_with("| `") && line.contains(&format!("`{name}`")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in docs/agent.md"));
        let first = default.split([' ', ',']).next().unwrap_or_default();
        assert!(line.contains(first), "{name} has the default {default}: {line}");
    }
}

#[test]
fn every_call_and_code_is_on_the_page() {
    let page = page("agent-api.md");
    let description = serde_json::to_value(routes::description()).unwrap();
    for path in description["paths"].as_object().unwrap().keys() {
        assert!(page.contains(path), "{path} is not in docs/agent-api.md");
    }
    for code in AgentErrorCode::ALL {
        let text = serde_json::to_value(code).unwrap();
        let text = text.as_str().unwrap();
        let (name, status) = (format!("`{text}`"), format!("| {} |", code.status()));
        let described = page.lines().any(|line| line.contains(&name) && line.contains(&status));
        assert!(described, "{text} with {} is not in docs/agent-api.md", code.status());
    }
}
