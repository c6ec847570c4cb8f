#!/usr/bin/env python3
"""Cuts what ClaraTeach uses out of Compute Engine's public discovery document (compute v1).

    pip download --no-deps google-api-python-client
    unzip -p google_api_python_client-*.whl googleapiclient/discovery_cache/documents/compute.v1.json > compute.v1.json
    scripts/gcp-schema-excerpt.py compute.v1.json 2.202.0 > crates/gcp/data/compute-v1-excerpt.json

The excerpt has the methods that we call and the schemas of what they take and give, with every field's name and type and
without the descriptions. A field whose schema is of no use to us keeps its reference, which then leads nowhere.
"""

import json
import sys

METHODS = {
    "instances": [
        "insert", "get", "list", "aggregatedList", "start", "stop", "delete", "setLabels", "setDiskAutoDelete",
        "getSerialPortOutput",
    ],
    "disks": ["insert", "get", "list", "delete", "createSnapshot"],
    "snapshots": ["get", "list", "delete", "setLabels"],
    "zoneOperations": ["get", "list", "wait"],
    "globalOperations": ["get", "wait"],
}  # fmt: skip
SCHEMAS = [
    "AccessConfig", "AdvancedMachineFeatures", "AttachedDisk", "AttachedDiskInitializeParams", "Disk", "DiskList",
    "GlobalSetLabelsRequest", "Instance", "InstanceAggregatedList", "InstanceList", "InstancesScopedList",
    "InstancesSetLabelsRequest", "Metadata", "NetworkInterface", "Operation", "OperationList", "Scheduling",
    "SerialPortOutput", "ServiceAccount", "Snapshot", "SnapshotList", "Tags",
]  # fmt: skip
KEPT = ["type", "format", "$ref", "enum", "location", "required"]


def shape(schema):
    kept = {key: schema[key] for key in KEPT if key in schema}
    if "properties" in schema:
        kept["properties"] = {name: shape(of) for name, of in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            kept[key] = shape(schema[key])
    return kept


def method(of):
    kept = {key: of[key] for key in ("httpMethod", "path", "request", "response") if key in of}
    kept["parameters"] = {name: shape(parameter) for name, parameter in of["parameters"].items()}
    return kept


def one_line_each(name, table):
    rows = [f"    {json.dumps(key)}: {json.dumps(table[key], sort_keys=True)}" for key in sorted(table)]
    return f'  "{name}": {{\n' + ",\n".join(rows) + "\n  }"


def main() -> None:
    path, package = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    source = (
        f"Excerpt of Google's Compute Engine API discovery document compute v1, revision {document['revision']}, as in the "
        f"Python package google-api-python-client {package}; descriptions and whatever is not used here left out. "
        "Made by scripts/gcp-schema-excerpt.py."
    )
    methods = {
        f"{resource}.{name}": method(document["resources"][resource]["methods"][name])
        for resource, names in METHODS.items()
        for name in names
    }
    schemas = {name: shape(document["schemas"][name]) for name in SCHEMAS}
    head = {
        "source": source,
        "licence": "Apache-2.0, Copyright Google LLC",
        "servicePath": document["servicePath"],
        "parameters": sorted(document["parameters"]),
    }
    rows = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows += [one_line_each("methods", methods), one_line_each("schemas", schemas)]
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
