//! The manifests in `deploy/` are what they say: objects of Kubernetes' types, without a field that those do not have.
//!
//! The chart's templates use few forms, so that they can be rendered here without Helm: a path below `.Values`,
//! `.Release.Namespace`, `.Chart.AppVersion`, a path followed by `| toJson`, with `| sha256sum` at most behind that, and
//! on lines of their own `if`, with `not` or `or` before its paths, `else` and `end`, one not within another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn text(path: &str) -> String {
    let path = deploy().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Reads an object as a type and holds what was understood against what was written.
fn check<T: DeserializeOwned + Serialize>(object: &Value) -> T {
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object:#}"));
    lost("", object, &serde_json::to_value(&typed).unwrap());
    typed
}

/// Every field that was written has to be among those that were understood.
fn lost(path: &str, written: &Value, understood: &Value) {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            for (key, value) in written {
                let path = format!("{path}.{key}");
                lost(&path, value, understood.get(key).unwrap_or_else(|| panic!("{path} is no field")));
            }
        }
        (Value::Array(written), Value::Array(understood)) => {
            written.iter().zip(understood).for_each(|(written, understood)| lost(path, written, understood));
        }
        (written, understood) => assert_eq!(written, understood, "{path}"),
    }
}

/// What a set of manifests must be, however it was made.
fn check_all(objects: &[Value]) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for object in objects {
        let kind = object["kind"].as_str().unwrap();
        *kinds.entry(kind.to_owned()).or_default() += 1;
        match kind {
            "ServiceAccount" => drop(check::<ServiceAccount>(object)),
            "ClusterRole" => check_rights(&check::<ClusterRole>(object)),
            "ClusterRoleBinding" => {
                let binding = check::<ClusterRoleBinding>(object);
                let subject = &binding.subjects.unwrap()[0];
                assert_eq!(
                    (subject.name.as_str(), subject.namespace.as_deref()),
                    ("switchboard", Some("kube-system"))
                );
            }
            "ConfigMap" => check_config(&check::<ConfigMap>(object)),
            "DaemonSet" => check_daemon_set(&check::<DaemonSet>(object)),
            other => panic!("a {other} is not expected"),
        }
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
}

fn check_rights(role: &ClusterRole) {
    for rule in role.rules.iter().flatten() {
        let events = rule.resources.iter().flatten().any(|resource| resource == "events");
        let used: &[&str] = if events { &["create", "patch"] } else { &["get", "list", "watch"] };
        assert_eq!(rule.verbs, used);
        assert!(!rule.resources.iter().flatten().any(|resource| resource == "*" || resource == "secrets"));
    }
}

/// Every key is an option of `run`: the binary says so itself.
fn check_config(map: &ConfigMap) {
    let config = &map.data.as_ref().unwrap()["config.yaml"];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_switchboard"))
        .env_clear()
        .args(["run", "--dry-run", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(out.contains("source: \"kube\""), "{out}");
}

fn check_daemon_set(set: &DaemonSet) {
    let spec = set.spec.as_ref().unwrap();
    let pod = spec.template.spec.as_ref().unwrap();
    assert_eq!(pod.host_network, Some(true));
    assert_eq!(spec.selector.match_labels, spec.template.metadata.as_ref().unwrap().labels);
    let container = &pod.containers[0];
    let context = container.security_context.as_ref().unwrap();
    assert_eq!((context.privileged, context.read_only_root_filesystem), (Some(false), Some(true)));
    let capabilities = context.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.add.as_deref().unwrap(), ["BPF", "NET_ADMIN", "PERFMON"]);
    assert_eq!(capabilities.drop.as_deref().unwrap(), ["ALL"]);
    let volumes: Vec<&str> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    let mounts: Vec<&str> =
        container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
    assert_eq!(volumes, mounts);
    let runs = container.args.as_ref().unwrap()[0] == "run";
    let liveness = container.liveness_probe.as_ref().and_then(|probe| probe.http_get.as_ref());
    assert_eq!(liveness.and_then(|probe| probe.path.as_deref()), runs.then_some("/livez"));
}

fn base() -> Vec<Value> {
    let kustomization = documents(&text("kustomize/base/kustomization.yaml")).remove(0);
    let files = kustomization["resources"].as_array().unwrap().clone();
    files
        .iter()
        .flat_map(|file| documents(&text(&format!("kustomize/base/{}", file.as_str().unwrap()))))
        .collect()
}

#[test]
fn the_base_is_of_kubernetes_types() {
    check_all(&base());
}

#[test]
fn the_overlays_say_where_the_api_server_is() {
    for overlay in ["kind", "k3s"] {
        let patch = documents(&text(&format!("kustomize/overlays/{overlay}/config.yaml"))).remove(0);
        let map: ConfigMap = check(&patch);
        check_config(&map);
        assert!(map.data.unwrap()["config.yaml"].contains("apiserver: https://"), "{overlay}");
        // Where kubectl is installed, the whole of it is put together.
        let folder = deploy().join("kustomize/overlays").join(overlay);
        let Ok(output) = Command::new("kubectl").arg("kustomize").arg(folder).output() else { continue };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        check_all(&documents(&String::from_utf8_lossy(&output.stdout)));
    }
}

/// A strategic merge patch, as far as those here go: lists of these fields are merged by a key, others replaced, and
/// null removes.
fn patch(field: &str, object: &mut Value, by: &Value) {
    let key = match field {
        "containers" | "env" | "volumes" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        _ => None,
    };
    match (object, by, key) {
        (Value::Object(object), Value::Object(by), _) => {
            for (field, by) in by {
                match by {
                    Value::Null => drop(object.remove(field)),
                    by => patch(field, object.entry(field).or_insert(Value::Null), by),
                }
            }
        }
        (Value::Array(list), Value::Array(by), Some(key)) => {
            for by in by {
                match list.iter_mut().find(|item| item[key] == by[key]) {
                    Some(item) => patch("", item, by),
                    None => list.push(by.clone()),
                }
            }
        }
        (object, by, _) => *object = by.clone(),
    }
}

/// The base with components in it.
fn with(components: &[&str]) -> Vec<Value> {
    let mut objects = base();
    for component in components {
        let folder = format!("kustomize/components/{component}");
        let kustomization = documents(&text(&format!("{folder}/kustomization.yaml"))).remove(0);
        assert_eq!(kustomization["kind"], "Component");
        for file in kustomization["patches"].as_array().unwrap() {
            let by = documents(&text(&format!("{folder}/{}", file["path"].as_str().unwrap()))).remove(0);
            let same = |object: &&mut Value| {
                object["kind"] == by["kind"] && object["metadata"]["name"] == by["metadata"]["name"]
            };
            let object = objects.iter_mut().find(same).expect("what is patched is in the base");
            patch("", object, &by);
        }
    }
    objects
}

/// The DaemonSet's container among them.
fn container(objects: &[Value]) -> &Value {
    let set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    &set["spec"]["template"]["spec"]["containers"][0]
}

/// The binary understands these arguments and this environment.
fn check_command(container: &Value) {
    let args = container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let env = container["env"].as_array().unwrap().iter();
    let env = env.filter_map(|set| Some((set["name"].as_str()?, set["value"].as_str()?)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.env_clear().envs(env);
    let runs = container["args"][0] == "run";
    let output = if runs {
        command.args(["run", "--dry-run", "--source", "kube", "--node", "n"]).output().unwrap()
    } else {
        command.args(args).arg("--help").output().unwrap()
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    if runs && container["env"].as_array().unwrap().len() > 1 {
        assert!(
            out.contains("node-settings: \"on\"") && out.contains("proc-sys: \"/host/proc/sys\""),
            "{out}"
        );
    }
}

#[test]
fn the_components_set_the_node_and_take_it_back() {
    for components in [&["node-settings"] as &[_], &["drain"], &["node-settings", "drain"]] {
        let objects = with(components);
        check_all(&objects);
        check_command(container(&objects));
        for (name, path) in [("settings", "/proc/sys/net"), ("record", "/run/switchboard")] {
            let mounts = container(&objects)["volumeMounts"].as_array().unwrap();
            assert_eq!(mounts.iter().filter(|mount| mount["name"] == name).count(), 1);
            let volumes = objects.last().unwrap()["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == name).unwrap();
            assert_eq!(volume["hostPath"]["path"], path);
        }
    }
}

/// Takes out what the values switch off.
fn switched(template: &str, values: &Value) -> String {
    let holds = |path: &str| {
        let pointer = path.strip_prefix(".Values").expect(path).replace('.', "/");
        values.pointer(&pointer).and_then(Value::as_bool).expect(path)
    };
    let mut shown = true;
    let mut lines = String::new();
    for line in template.lines() {
        let words: Vec<&str> =
            match line.trim().strip_prefix("{{- ").and_then(|rest| rest.strip_suffix(" }}")) {
                Some(words) => words.split(' ').collect(),
                None => Vec::new(),
            };
        match words.as_slice() {
            ["if", "not", path] => shown = !holds(path),
            ["if", "or", paths @ ..] => shown = paths.iter().any(|path| holds(path)),
            ["if", path] => shown = holds(path),
            ["else"] => shown = !shown,
            ["end"] => shown = true,
            _ if shown => lines = lines + line + "\n",
            _ => {}
        }
    }
    lines
}

/// The forms that the templates are written in, and no other.
fn render(template: &str, values: &Value) -> String {
    let mut rendered = String::new();
    let template = switched(template, values);
    let mut rest = template.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, after) = after.split_once("}}").expect("}}");
        let mut words = expression.split('|').map(str::trim);
        let path = words.next().unwrap_or_default();
        let value = match path {
            ".Release.Namespace" => Value::from("kube-system"),
            ".Chart.AppVersion" => Value::from("0.1.0"),
            path => {
                let pointer = path.strip_prefix(".Values").expect(path).replace('.', "/");
                values.pointer(&pointer).unwrap_or_else(|| panic!("{path} is not in values.yaml")).clone()
            }
        };
        let words: Vec<&str> = words.collect();
        let text = match (words.as_slice(), &value) {
            ([], Value::String(text)) => text.clone(),
            (["toJson"], value) => value.to_string(),
            (["toJson", "sha256sum"], _) => "0".repeat(64),
            other => panic!("{expression}: {other:?}"),
        };
        rendered += before;
        rendered += &text;
        rest = after;
    }
    rendered + rest
}

#[test]
fn the_chart_renders_to_what_the_base_has() {
    same_as_the_chart(base(), false, false);
    same_as_the_chart(with(&["node-settings"]), true, false);
    same_as_the_chart(with(&["drain"]), false, true);
}

fn same_as_the_chart(mut base: Vec<Value>, node_settings: bool, drain: bool) {
    let mut values = documents(&text("helm/switchboard/values.yaml")).remove(0);
    values["config"]["apiserver"] = "https://192.0.2.1:6443".into();
    values["nodeSettings"] = node_settings.into();
    values["drain"] = drain.into();
    let mut objects = Vec::new();
    for file in ["service-account.yaml", "rbac.yaml", "config.yaml", "daemonset.yaml"] {
        let rendered = render(&text(&format!("helm/switchboard/templates/{file}")), &values);
        objects.extend(documents(&rendered));
    }
    check_all(&objects);
    for (from_chart, from_base) in objects.iter_mut().zip(&mut base) {
        for object in [&mut *from_chart, from_base] {
            if object["kind"] == "ConfigMap" {
                object["data"] = Value::Null;
            }
            if let Some(metadata) =
                object.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut)
            {
                metadata.remove("annotations");
            }
        }
        assert_eq!(from_chart, from_base);
    }
    let notes = render(&text("helm/switchboard/templates/NOTES.txt"), &values);
    assert!(notes.contains("-n kube-system rollout status"), "{notes}");
}

/// As much of JSON Schema as the chart's uses.
fn conforms(value: &Value, schema: &Value) -> Result<(), String> {
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let fits = |wanted: &&str| *wanted == kind || (*wanted == "number" && kind == "integer");
    if !kinds.is_empty() && !kinds.iter().any(fits) {
        return Err(format!("{value} is no {kinds:?}"));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return Err(format!("{value} is not among {}", schema["enum"]));
    }
    if value.as_str().is_some_and(|text| schema["pattern"] == "^https://.+" && !text.starts_with("https://"))
    {
        return Err(format!("{value} does not match {}", schema["pattern"]));
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        fields.get(required).ok_or_else(|| format!("{required} is missing"))?;
    }
    for (name, value) in fields {
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(schema), _) => conforms(value, schema)?,
            (None, Value::Bool(false)) => return Err(format!("{name} is not known")),
            (None, schema) => conforms(value, schema)?,
        }
    }
    Ok(())
}

#[test]
fn the_charts_schema_takes_its_values_once_the_address_is_there_and_refuses_slips() {
    let schema: Value = serde_json::from_str(&text("helm/switchboard/values.schema.json")).unwrap();
    let mut values = documents(&text("helm/switchboard/values.yaml")).remove(0);
    let refusal = conforms(&values, &schema).unwrap_err();
    assert!(refusal.contains("https://"), "the address has to be given: {refusal}");
    values["config"]["apiserver"] = "https://192.0.2.1:6443".into();
    conforms(&values, &schema).unwrap();
    for (pointer, wrong) in [("/image/pullPolicy", "Sometimes"), ("/image", "switchboard"), ("/imgae", "x")] {
        let mut values = values.clone();
        match values.pointer_mut(pointer) {
            Some(value) => *value = wrong.into(),
            None => values["imgae"] = wrong.into(),
        }
        conforms(&values, &schema).unwrap_err();
    }
}
