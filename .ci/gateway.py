"""Asserts what the gateway's kustomization promises, and that its parts name each other rightly."""

import pathlib
import re
import sys
import tomllib

import yaml

with open(sys.argv[1]) as file:
    documents = {document["kind"]: document for document in yaml.safe_load_all(file)}
folder = pathlib.Path("deploy/kustomize/gateway")
template = documents["Deployment"]["spec"]["template"]
pod, labels = template["spec"], template["metadata"]["labels"]
(container,) = pod["containers"]
ports = {port["name"]: port["containerPort"] for port in container["ports"]}

# Everybody selects the gateway's pods.
assert documents["Deployment"]["spec"]["selector"]["matchLabels"] == labels
assert documents["Service"]["spec"]["selector"] == labels
assert documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
assert documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
assert documents["PodMonitor"]["spec"]["selector"]["matchLabels"] == labels
for spread in pod["topologySpreadConstraints"]:
    assert spread["labelSelector"]["matchLabels"] == labels

context = container["securityContext"]
assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"]
assert context["capabilities"] == {"drop": ["ALL"]}
assert context["seccompProfile"] == {"type": "RuntimeDefault"}
assert context["allowPrivilegeEscalation"] is False
assert all(f"{probe}Probe" in container for probe in ("startup", "liveness", "readiness"))
assert container["resources"]["requests"] and container["resources"]["limits"]
assert {volume["name"] for volume in pod["volumes"]} == {
    mount["name"] for mount in container["volumeMounts"]
}
# Nothing is kept on the node.
assert all("configMap" in volume or "secret" in volume for volume in pod["volumes"])
(settings,) = [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
assert documents["ConfigMap"]["metadata"]["name"] == settings

config = tomllib.loads(documents["ConfigMap"]["data"]["gmfy-sidecar.toml"])
assert config["queue"]["backend"] == "nats"
assert config["api"]["listen"] == f"0.0.0.0:{ports['gmfy-api']}"
assert "keys" not in config["api"], "keys belong in the Secret"
assert "gmfy-gateway" in config["api"]["allowed_hosts"]
(secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
files = {f"/etc/gmfy-sidecar/secret/{item['path']}" for item in secret["items"]}
assert config["upstream"]["api_key_file"] in files
assert config["queue"]["nats"]["credentials_file"] in files
for variable in container["env"]:
    assert variable["valueFrom"]["secretKeyRef"]["name"] == secret["secretName"]

scaler = documents["HorizontalPodAutoscaler"]["spec"]
assert scaler["scaleTargetRef"]["name"] == documents["Deployment"]["metadata"]["name"]
assert 1 < scaler["minReplicas"] < scaler["maxReplicas"] <= config["queue"]["nats"]["lanes"]
(metric,) = scaler["metrics"]
(rule,) = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text())["rules"]["external"]
assert metric["external"]["metric"]["name"] == rule["name"]["as"]
assert metric["external"]["metric"]["selector"]["matchLabels"] == {"container": container["name"]}
known = set(re.findall(r"^## `(gmfy_\w+)`", pathlib.Path("docs/metrics.md").read_text(), re.M))
used = set(re.findall(r"gmfy_\w+", rule["seriesQuery"] + rule["metricsQuery"]))
assert used and used <= known, f"no such metrics: {used - known}"
# As promtool will read it.
query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].split("{")[0])
query = query.replace("<<.LabelMatchers>>", 'namespace="gmfy",container="gmfy-gateway"')
with open(sys.argv[2], "w") as file:
    rules = [{"record": "gateway_oldest_age_seconds", "expr": query}]
    yaml.safe_dump({"groups": [{"name": "gateway", "rules": rules}]}, file)

nats = yaml.safe_load((folder / "nats.values.yaml").read_text())["config"]
assert nats["cluster"]["replicas"] >= config["queue"]["nats"]["replicas"]
print("the gateway's parts fit each other")
