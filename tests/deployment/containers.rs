//! The container and the manifests fit the gateway and each other.

use serde_yaml::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::{file, yaml};

const KUBERNETES: &str = "deploy/kubernetes";

fn container() -> Value {
    let deployment = yaml(&format!("{KUBERNETES}/deployment.yaml"));
    deployment["spec"]["template"]["spec"]["containers"][0].clone()
}

/// The variables that a configuration takes from the environment.
fn variables(config: &str) -> BTreeSet<String> {
    let names = config.split("${").skip(1);
    names.map(|rest| rest.split([':', '}']).next().unwrap().to_owned()).collect()
}

/// The port of an address written as `IP:PORT`.
fn port(address: &Value) -> u64 {
    address.as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn the_configuration_of_the_manifests_is_a_good_one() {
    let checked = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["check", "-c", "deploy/kubernetes/tollgate.yaml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("TOLLGATE_UPSTREAM")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}");
}

#[test]
fn ports_probes_and_variables_of_the_deployment_are_those_of_its_configuration() {
    let text = file(&format!("{KUBERNETES}/tollgate.yaml"));
    let config: Value = serde_yaml::from_str(&text).unwrap();
    let container = container();
    let ports: Vec<(&str, u64)> = container["ports"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap()))
        .collect();
    let listen = [port(&config["server"]["listen"]), port(&config["metrics"]["listen"])];
    assert_eq!(ports, [("http", listen[0]), ("metrics", listen[1])]);
    let health = config["server"]["health_path"].as_str().unwrap();
    for probe in ["startupProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"].as_str(), Some(health), "{probe}");
        assert_eq!(get["port"].as_str(), Some("http"), "{probe}");
    }
    // What `tollgate ready` asks without being told otherwise.
    assert_eq!((listen[0], health), (8080, "/healthz"));
    let live: Vec<&str> = container["livenessProbe"]["exec"]["command"]
        .as_sequence()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(live, ["tollgate", "ready", "--any-status"]);
    let set = container["env"].as_sequence().unwrap();
    for variable in set {
        let name = variable["name"].as_str().unwrap();
        assert!(variables(&text).contains(name), "{name} is not used by the configuration");
    }
    let service = yaml(&format!("{KUBERNETES}/service.yaml"));
    assert_eq!(service["spec"]["ports"][0]["targetPort"].as_str(), Some("http"));
}

#[test]
fn nobody_in_the_cluster_reaches_the_admin_api() {
    let config = yaml(&format!("{KUBERNETES}/tollgate.yaml"));
    let address = config["admin"]["listen"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let ports = serde_yaml::to_string(&container()["ports"]).unwrap();
    assert!(!ports.contains(&port(&config["admin"]["listen"]).to_string()), "{ports}");
}

#[test]
fn a_pod_has_longer_to_end_than_the_gateway_takes() {
    let deployment = yaml(&format!("{KUBERNETES}/deployment.yaml"));
    let pod = &deployment["spec"]["template"]["spec"];
    let seconds = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let stop = container()["lifecycle"]["preStop"]["exec"]["command"][1].clone();
    let before: u64 = stop.as_str().unwrap().parse().unwrap();
    let config = yaml(&format!("{KUBERNETES}/tollgate.yaml"));
    let grace = config["server"]["grace_period"].as_str().unwrap();
    let grace: u64 = grace.strip_suffix('s').unwrap().parse().unwrap();
    assert!(seconds >= before + grace + 5, "{seconds} s for {before} + {grace} s");
    let strategy = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(strategy["maxUnavailable"].as_u64(), Some(0));
}

#[test]
fn the_pod_may_do_nothing_but_serve() {
    let deployment = yaml(&format!("{KUBERNETES}/deployment.yaml"));
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
    assert_eq!(pod["automountServiceAccountToken"].as_bool(), Some(false));
    let container = container();
    let context = &container["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"].as_bool(), Some(true));
    assert_eq!(context["allowPrivilegeEscalation"].as_bool(), Some(false));
    assert_eq!(context["capabilities"]["drop"][0].as_str(), Some("ALL"));
    let user = pod["securityContext"]["runAsUser"].as_u64().unwrap();
    assert!(file("deploy/Dockerfile").contains(&format!("\nUSER {user}:{user}\n")));
}

/// A mounted file never changes; a mounted folder does, and is watched.
#[test]
fn the_configuration_is_mounted_as_a_folder_and_watched() {
    let config = yaml(&format!("{KUBERNETES}/tollgate.yaml"));
    assert_eq!(config["server"]["watch_file"].as_bool(), Some(true));
    let mount = &container()["volumeMounts"][0];
    assert!(mount["subPath"].is_null());
    let folder = mount["mountPath"].as_str().unwrap();
    let arguments = container()["args"].clone();
    assert_eq!(arguments[2].as_str(), Some(&*format!("{folder}/tollgate.yaml")));
    let kustomization = yaml(&format!("{KUBERNETES}/kustomization.yaml"));
    assert_eq!(kustomization["generatorOptions"]["disableNameSuffixHash"].as_bool(), Some(true));
    assert_eq!(kustomization["configMapGenerator"][0]["files"][0].as_str(), Some("tollgate.yaml"));
}

#[test]
fn what_kustomize_lists_exists_and_everything_selects_the_same_pods() {
    let kustomization = yaml(&format!("{KUBERNETES}/kustomization.yaml"));
    for resource in kustomization["resources"].as_sequence().unwrap() {
        let manifest = yaml(&format!("{KUBERNETES}/{}", resource.as_str().unwrap()));
        assert_eq!(manifest["metadata"]["name"].as_str(), Some("tollgate"), "{resource:?}");
    }
    let label = "app.kubernetes.io/name";
    let deployment = yaml(&format!("{KUBERNETES}/deployment.yaml"));
    let pods = &deployment["spec"]["template"]["metadata"]["labels"][label];
    let budget = yaml(&format!("{KUBERNETES}/pod-disruption-budget.yaml"));
    let service = yaml(&format!("{KUBERNETES}/service.yaml"));
    for selected in [
        &deployment["spec"]["selector"]["matchLabels"][label],
        &budget["spec"]["selector"]["matchLabels"][label],
        &service["spec"]["selector"][label],
    ] {
        assert_eq!(selected, pods);
    }
    let image = container()["image"].as_str().unwrap().to_owned();
    assert_eq!(image, format!("tollgate:{}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_container_takes_what_the_shipped_configuration_offers() {
    let dockerfile = file("deploy/Dockerfile");
    let shipped = variables(&file("conf/tollgate.yaml"));
    let variables: BTreeSet<&str> = dockerfile
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("TOLLGATE_") && *word != "TOLLGATE_")
        .collect();
    for variable in variables {
        assert!(shipped.contains(variable), "{variable} is not in conf/tollgate.yaml");
    }
    for line in [
        "\nCOPY conf/tollgate.yaml /etc/tollgate/tollgate.yaml\n",
        "\nCMD [\"run\", \"-c\", \"/etc/tollgate/tollgate.yaml\"]\n",
        "\nSTOPSIGNAL SIGTERM\n",
        "\nHEALTHCHECK ",
    ] {
        assert!(dockerfile.contains(line), "{line} is missing");
    }
    let built_with = dockerfile.split("FROM rust:").nth(1).unwrap().split('-').next().unwrap();
    assert_eq!(built_with, env!("CARGO_PKG_RUST_VERSION"));
}

#[test]
fn what_the_dockerfile_copies_is_not_ignored() {
    let ignore = file(".dockerignore");
    let dockerfile = file("deploy/Dockerfile");
    let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    for copy in copies.filter(|copy| !copy.starts_with("--from")) {
        let mut sources: Vec<&str> = copy.split(' ').collect();
        sources.pop();
        for source in sources {
            let top = source.split('/').next().unwrap();
            assert!(ignore.lines().any(|line| line == format!("!{top}")), "{top} is ignored");
            assert!(fs::metadata(format!("{}/{source}", env!("CARGO_MANIFEST_DIR"))).is_ok());
        }
    }
}
