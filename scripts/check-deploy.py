#!/usr/bin/env python3
"""Checks what is in deploy/ against the code, the documentation and the programs that will read it.

    scripts/check-deploy.py            promtool, systemd-analyze and docker-compose are needed (scripts/install-tools.sh test)

Every file parses; what dashboard, alerts and docs/operations.md name as measurements is what the code emits, all of it; alerts'
runbooks are headings there; units verify; the compose file refuses to start bare and is right with its settings; the
Cloud Run manifest has only fields that there are; the image's build copies only what is in the repository.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
GUIDE = ROOT / "docs/operations.md"
# Not a log filter such as clarateach_server=debug.
NAME = re.compile(r"\bclarateach_[a-z_]+\b(?!=\w)")
PARTS = ("_bucket", "_sum", "_count")


def run(*command: str, cwd: Path = ROOT, expect: int = 0) -> str:
    """What a program prints; a problem when its exit code is another (`expect` 1: any failure)."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if bool(done.returncode) != bool(expect):
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return said


def tool(name: str) -> str:
    for found in (shutil.which(name), ROOT / "target/tools" / name):
        if found and Path(found).exists():
            return str(found)
    raise AssertionError(f"{name} is missing; scripts/install-tools.sh test installs it")


def emitted() -> dict[str, str]:
    """Every measurement of the code, with its kind."""
    found = {}
    for file in sorted((ROOT / "crates").glob("**/src/**/*.rs")):
        text = file.read_text(encoding="utf-8")
        constants = dict(re.findall(r'const (\w+): &str = "(clarateach_\w+)"', text))
        # What is only described is emitted by nobody.
        for kind, name in re.findall(r'metrics::(counter|gauge|histogram)!\(\s*("clarateach_\w+"|[A-Z_]+)', text):
            found[name.strip('"') if name[0] == '"' else constants[name]] = kind
        # Written by hand in Prometheus' text format.
        if "# TYPE {NAME} histogram" in text:
            found[constants["NAME"]] = "histogram"
    return found


def named(text: str, kinds: dict[str, str]) -> set[str]:
    """The measurements that a text names, without a histogram's suffixes."""
    names = set()
    for name in NAME.findall(text):
        for part in PARTS:
            if name.endswith(part) and kinds.get(name.removesuffix(part)) == "histogram":
                name = name.removesuffix(part)
                break
        names.add(name)
    return names


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+\s+(.*)$", page.read_text(encoding="utf-8"), re.M)
    plain = (re.sub(r"[`*]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


def check_measurements() -> str:
    kinds = emitted()
    guide = named(GUIDE.read_text(encoding="utf-8"), kinds)
    dashboard = named((DEPLOY / "grafana/clarateach.json").read_text(encoding="utf-8"), kinds)
    alerts = named((DEPLOY / "prometheus/alerts.yaml").read_text(encoding="utf-8"), kinds)
    for where, names in (("dashboard", dashboard), ("alerts", alerts), ("docs/operations.md", guide)):
        assert not names - kinds.keys(), f"{where}: nothing emits {sorted(names - kinds.keys())}"
    missing = kinds.keys() - guide
    assert not missing, f"docs/operations.md does not tell what {sorted(missing)} mean"
    return f"{len(kinds)} measurements, all explained; {len(dashboard)} on the dashboard, {len(alerts)} in alerts"


def check_prometheus() -> str:
    promtool = tool("promtool")
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text(encoding="utf-8"))
    headings = anchors(GUIDE)
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    for alert in alerts:
        name, notes = alert["alert"], alert["annotations"]
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}, f"{name}: severity"
        assert "for" in alert and notes["summary"], f"{name}: needs `for` and a summary"
        page, _, heading = notes["runbook_url"].partition("#")
        assert page.endswith("/docs/operations.md"), f"{name}: runbook"
        assert heading in headings, f"{name}: docs/operations.md has no heading #{heading}"
    run(promtool, "check", "rules", str(DEPLOY / "prometheus/alerts.yaml"))
    run(promtool, "test", "rules", str(DEPLOY / "prometheus/alerts_test.yaml"))
    tested = (DEPLOY / "prometheus/alerts_test.yaml").read_text(encoding="utf-8")
    for alert in alerts:
        fires = re.search(rf"- alertname: {alert['alert']}\n\s+eval_time: \w+\n\s+exp_alerts:\n", tested)
        assert fires, f"{alert['alert']} is never seen to fire in alerts_test.yaml"
    with tempfile.TemporaryDirectory() as place:
        # The tokens' files are the operator's.
        config = (DEPLOY / "prometheus/prometheus.yaml").read_text(encoding="utf-8")
        for path in set(re.findall(r"/etc/prometheus/\S+", config)):
            (Path(place) / Path(path).name).touch()
        Path(place, "prometheus.yaml").write_text(config.replace("/etc/prometheus", place), encoding="utf-8")
        shutil.copy(DEPLOY / "prometheus/alerts.yaml", place)
        run(promtool, "check", "config", "--lint=all", str(Path(place) / "prometheus.yaml"))
    return f"{len(alerts)} alerts, each seen to fire and to keep quiet"


def check_dashboard() -> str:
    board = json.loads((DEPLOY / "grafana/clarateach.json").read_text(encoding="utf-8"))
    assert board["uid"] == "clarateach" and board["schemaVersion"] >= 36, "Grafana 10 reads schema 36 and later"
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource", "a variable chooses the data source"
    taken, ids, expressions = set(), set(), []
    for panel in board["panels"]:
        assert panel["id"] not in ids, f"{panel['title']}: its id is another's"
        ids.add(panel["id"])
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, f"{panel['title']}: lies over another or off the grid"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["fieldConfig"]["defaults"]["unit"], f"{panel['title']}: no unit"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", f"{panel['title']}: a data source of its own"
            expressions.append(target["expr"])
    # Prometheus itself says whether they are expressions.
    rules = [
        {"record": f"panel:{n}", "expr": text.replace("$__rate_interval", "5m")} for n, text in enumerate(expressions)
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        run(tool("promtool"), "check", "rules", file.name)
    return f"{len(ids)} panels, {len(expressions)} queries"


def check_units() -> str:
    units = sorted(DEPLOY.glob("*.service"))
    with tempfile.TemporaryDirectory() as place:
        for unit in units:
            text = unit.read_text(encoding="utf-8")
            # The programs are not installed here; that they exist is not what is checked.
            (Path(place) / unit.name).write_text(
                re.sub(r"^ExecStart=/usr/local/bin/\w+", "ExecStart=/bin/true", text, flags=re.M), encoding="utf-8"
            )
        said = run(tool("systemd-analyze"), "verify", *(str(Path(place) / unit.name) for unit in units))
        ours = [line for line in said.splitlines() if "clarateach" in line]
        assert not ours, "\n".join(ours)
    return f"{len(units)} units"


def check_compose() -> str:
    command = ["docker-compose"] if shutil.which("docker-compose") else [tool("docker"), "compose"]
    with tempfile.TemporaryDirectory() as place:
        for name in ("compose.yaml", "compose-env.sh"):
            shutil.copy(DEPLOY / name, place)
        config = [*command, "--file", f"{place}/compose.yaml", "config"]
        refused = run(*config, expect=1)
        assert "compose-env.sh" in refused, f"without settings it should say what to run, and says: {refused}"
        run(f"{place}/compose-env.sh", "https://class.example.org")
        secrets = Path(place) / "secrets"
        first = {file.name: file.read_text(encoding="utf-8") for file in secrets.iterdir()}
        assert secrets.stat().st_mode & 0o077 == 0, "others can look into the secrets' directory"
        run(f"{place}/compose-env.sh")
        again = {file.name: file.read_text(encoding="utf-8") for file in secrets.iterdir()}
        assert first == again, "compose-env.sh changed secrets that were there"
        resolved = run(*config)
        for name, value in first.items():
            if len(value.strip()) > 2:
                assert value.strip() not in resolved, f"{name} is in the resolved configuration"
        services = yaml.safe_load(resolved)["services"]
        for name, service in services.items():
            for given in service.get("secrets", []):
                source = given["source"] if isinstance(given, dict) else given
                assert source in first, f"{name}: nothing makes the secret {source}"
    return f"{len(services)} services, {len(first)} secrets"


# What Cloud Run's reference for serving.knative.dev/v1 Service names, as far as it is used: a dict holds a node's fields, a
# one-element list those of every element, None takes any scalar.
PROBE = {
    "httpGet": {"path": None, "port": None, "httpHeaders": [{"name": None, "value": None}]},
    "tcpSocket": {"port": None},
    "initialDelaySeconds": None,
    "periodSeconds": None,
    "timeoutSeconds": None,
    "failureThreshold": None,
}
CLOUD_RUN = {
    "apiVersion": None,
    "kind": None,
    "metadata": {
        "name": None,
        "labels": {"app": None},
        "annotations": {"run.googleapis.com/ingress": None, "run.googleapis.com/description": None},
    },
    "spec": {
        "template": {
            "metadata": {
                "labels": {"app": None},
                "annotations": {
                    "autoscaling.knative.dev/minScale": None,
                    "autoscaling.knative.dev/maxScale": None,
                    "run.googleapis.com/cpu-throttling": None,
                    "run.googleapis.com/startup-cpu-boost": None,
                    "run.googleapis.com/execution-environment": None,
                    "run.googleapis.com/vpc-access-connector": None,
                    "run.googleapis.com/vpc-access-egress": None,
                    "run.googleapis.com/sessionAffinity": None,
                    "run.googleapis.com/cloudsql-instances": None,
                },
            },
            "spec": {
                "serviceAccountName": None,
                "containerConcurrency": None,
                "timeoutSeconds": None,
                "containers": [
                    {
                        "name": None,
                        "image": None,
                        "ports": [{"name": None, "containerPort": None}],
                        "env": [
                            {"name": None, "value": None, "valueFrom": {"secretKeyRef": {"name": None, "key": None}}}
                        ],
                        "resources": {"limits": {"cpu": None, "memory": None}},
                        "startupProbe": PROBE,
                        "livenessProbe": PROBE,
                    }
                ],
            },
        },
        "traffic": [{"latestRevision": None, "percent": None, "revisionName": None, "tag": None}],
    },
}
SECRETS = {"ADMIN_TOKEN", "DATABASE_URL", "SCRAPE_TOKEN", "SERVER_KEY", "WORKER_AGENTS"}
# Set by Cloud Run; a manifest that sets them is refused.
RESERVED = {"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"}


def unknown(node, fields, path):
    """Where a node has fields that there are not."""
    if fields is None:
        if isinstance(node, (dict, list)):
            yield f"{path}: should be a plain value"
    elif isinstance(fields, list):
        if not isinstance(node, list):
            yield f"{path}: should be a list"
        for n, element in enumerate(node if isinstance(node, list) else []):
            yield from unknown(element, fields[0], f"{path}[{n}]")
    else:
        for name, value in node.items():
            if name not in fields:
                yield f"{path}.{name}: there is no such field"
            else:
                yield from unknown(value, fields[name], f"{path}.{name}")


def settings() -> set[str]:
    source = (ROOT / "crates/server/src/config/settings.rs").read_text(encoding="utf-8")
    table = source[source.index("pub const SETTINGS") : source.index("];", source.index("pub const SETTINGS"))]
    return set(re.findall(r'\(\s*"([A-Z_]+)",', table))


def check_cloud_run() -> str:
    service = yaml.safe_load((DEPLOY / "cloud-run.yaml").read_text(encoding="utf-8"))
    wrong = list(unknown(service, CLOUD_RUN, "cloud-run.yaml"))
    assert not wrong, "\n".join(wrong)
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    template = service["spec"]["template"]
    for name, value in template["metadata"]["annotations"].items():
        assert isinstance(value, str), f"{name}: annotations are strings; put {value!r} into quotes"
    [container] = template["spec"]["containers"]
    env = {entry["name"]: entry for entry in container["env"]}
    assert len(env) == len(container["env"]), "a variable is set twice"
    for name, entry in env.items():
        assert name not in RESERVED, f"Cloud Run sets {name} itself"
        assert name in settings(), f"the server has no setting {name}"
        is_secret = "secretKeyRef" in entry.get("valueFrom", {})
        assert is_secret == (name in SECRETS), f"{name}: secrets come from the Secret Manager, and only they"
        assert is_secret or isinstance(entry["value"], str), f"{name}: values are strings"
    assert env.keys() >= SECRETS | {"BIND_ADDR"}, "a setting is missing"
    assert 1 <= template["spec"]["timeoutSeconds"] <= 3600 and template["spec"]["containerConcurrency"] <= 1000
    routes = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "crates/server/src/routes").glob("*.rs"))
    for probe in ("startupProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert f'"{path}"' in routes, f"{probe}: the server has no {path}"
    return f"{len(env)} settings"


def check_image() -> str:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    stages, copied, ignored = set(), [], (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stages.update(re.findall(r" AS (\w+)", rest))
        elif word == "COPY":
            origin = re.match(r"--from=(\w+) ", rest)
            if origin:
                assert origin[1] in stages, f"COPY {rest}: there is no such stage"
                continue
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), f"COPY {rest}: {source} is not in the repository"
                assert source not in ignored, f"COPY {rest}: .dockerignore keeps {source} out"
                copied.append(ROOT / source)
    last = text[text.rindex("FROM ") :]
    user = re.search(r"^USER (\d+):(\d+)$", last, re.M)
    assert user and int(user[1]) > 0, "the image runs as root"
    assert "HEALTHCHECK" in last and "/api/health" in last, "the image has no health check"
    # All crates that the lock file needs have to be there, or cargo refuses --locked.
    members = yaml.safe_load(json.dumps(re.findall(r'^    "([\w/]+)",$', (ROOT / "Cargo.toml").read_text("utf-8"), re.M)))
    for member in members:
        assert member.split("/")[0] in {"crates", "tests"}, f"{member} is not copied into the build"
    # What the code takes in as it is compiled, from wherever in the repository.
    for file in (ROOT / "crates").glob("**/src/**/*.rs"):
        for taken in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', file.read_text(encoding="utf-8")):
            path = (file.parent / taken).resolve()
            assert any(path.is_relative_to(source) for source in copied), f"{path.relative_to(ROOT)} is not copied into the build"
    return f"{len(copied)} sources"


def main() -> int:
    checks = [check_measurements, check_prometheus, check_dashboard, check_units, check_compose, check_cloud_run, check_image]
    failed = 0
    for check in checks:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            print(f"[+] {name}: {check()}")
        except (AssertionError, KeyError, ValueError, OSError, yaml.YAMLError) as problem:
            failed += 1
            print(f"[-] {name}: {type(problem).__name__}: {problem}")
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
