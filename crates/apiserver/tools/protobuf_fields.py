#!/usr/bin/env python3
"""Writes src/protobuf/fields.txt from Kubernetes' published generated.proto files.

usage: protobuf_fields.py API_REPOSITORY APIMACHINERY_REPOSITORY > src/protobuf/fields.txt
(git directories; only field numbers, names and types are taken, of the messages reachable from ROOTS)
"""
import re
import subprocess
import sys

ROOTS = """core.v1.Namespace core.v1.ServiceAccount core.v1.ConfigMap core.v1.Secret core.v1.Service core.v1.Pod core.v1.Binding
core.v1.Endpoints core.v1.ResourceQuota core.v1.LimitRange core.v1.Event core.v1.Node
apps.v1.Deployment apps.v1.ReplicaSet apps.v1.StatefulSet apps.v1.DaemonSet batch.v1.Job batch.v1.CronJob
rbac.v1.Role rbac.v1.RoleBinding rbac.v1.ClusterRole rbac.v1.ClusterRoleBinding networking.v1.Ingress
networking.v1.NetworkPolicy networking.v1.IngressClass policy.v1.PodDisruptionBudget policy.v1.Eviction
scheduling.v1.PriorityClass coordination.v1.Lease discovery.v1.EndpointSlice autoscaling.v1.Scale events.v1.Event
authentication.v1.TokenRequest authentication.v1.TokenReview authentication.v1.SelfSubjectReview
authorization.v1.SelfSubjectAccessReview authorization.v1.SubjectAccessReview authorization.v1.LocalSubjectAccessReview
authorization.v1.SelfSubjectRulesReview
admissionregistration.v1.MutatingWebhookConfiguration admissionregistration.v1.ValidatingWebhookConfiguration
meta.v1.DeleteOptions meta.v1.ObjectMeta""".split()
SCALARS = {"string": "s", "int32": "i", "int64": "i", "uint32": "i", "bool": "b", "bytes": "y", "double": "d"}
FIELD = re.compile(r"(optional|repeated|map<string, *([\w.]+)>) *(?:([\w.]+) +)?(\w+) = (\d+);")
messages = {}


def short(name, package):
    name = name.lstrip(".")
    if name in SCALARS:
        return SCALARS[name]
    if not name.startswith("k8s.io."):
        return f"{package}.{name}"
    parts = name.split(".")
    return ".".join(parts[-3:])


def read(repository, path, package):
    text = subprocess.run(["git", f"--git-dir={repository}", "show", f"HEAD:{path}"], capture_output=True, text=True, check=True).stdout
    name = None
    for line in text.splitlines():
        line = line.strip()
        if found := re.match(r"message (\w+) \{", line):
            name = f"{package}.{found[1]}"
            messages[name] = []
        elif name and (found := FIELD.match(line)):
            label, value, kind, field, number = found.groups()
            if value:
                kind = "%" + short(value, package)
            else:
                kind = ("*" if label == "repeated" else "") + short(kind, package)
            messages[name].append(f"{field}={number}:{kind}")


api, machinery = sys.argv[1:3]
for group in "core apps batch rbac networking policy scheduling coordination discovery authentication authorization events admissionregistration".split():
    read(api, f"{group}/v1/generated.proto", f"{group}.v1")
read(api, "autoscaling/v1/generated.proto", "autoscaling.v1")
read(machinery, "pkg/apis/meta/v1/generated.proto", "meta.v1")
reached, queue = set(), list(ROOTS)
while queue:
    name = queue.pop()
    if name in reached or name not in messages:
        continue
    reached.add(name)
    queue += [f.split(":", 1)[1].lstrip("*%") for f in messages[name]]
print("# message field=number:type ...   types: s string, i integer, b boolean, y bytes, d double, * list, % map, else a message")
print("# Written by tools/protobuf_fields.py from the published API definitions.")
for name in sorted(reached):
    print(name, *messages[name])
