"""Asserts what the kustomization promises of every workload: a native, locked-down sidecar."""

import sys

import yaml

with open(sys.argv[1]) as file:
    documents = list(yaml.safe_load_all(file))
kinds = [document["kind"] for document in documents]
for kind in ("Deployment", "StatefulSet", "Job", "PodMonitor", "NetworkPolicy"):
    assert kind in kinds, f"no {kind}"
names = {(document["kind"], document["metadata"]["name"]) for document in documents}
for document in documents:
    if document["kind"] not in ("Deployment", "StatefulSet", "Job"):
        continue
    pod = document["spec"]["template"]["spec"]
    (sidecar,) = [c for c in pod["initContainers"] if c["name"] == "gmfy-sidecar"]
    assert sidecar["restartPolicy"] == "Always"
    context = sidecar["securityContext"]
    assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["allowPrivilegeEscalation"] is False
    assert all(f"{probe}Probe" in sidecar for probe in ("startup", "liveness", "readiness"))
    assert sidecar["resources"]["requests"] and sidecar["resources"]["limits"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = document["spec"].get("volumeClaimTemplates", [])
    stored = set(volumes) | {claim["metadata"]["name"] for claim in claims}
    assert {mount["name"] for mount in sidecar["volumeMounts"]} <= stored
    assert ("gmfy-sidecar-data" in volumes) == (document["kind"] != "StatefulSet")
    # The generated names, with their hashes, reached the volumes.
    assert ("Secret", volumes["gmfy-sidecar-key"]["secret"]["secretName"]) in names
    assert ("ConfigMap", volumes["gmfy-sidecar-settings"]["configMap"]["name"]) in names
    labels = document["spec"]["template"]["metadata"]["labels"]
    assert labels["gmfy-sidecar"] == "enabled"
print("every workload has its sidecar")
