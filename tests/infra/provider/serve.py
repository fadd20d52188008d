"""An AWS provider that has the real one's schema and no AWS: Terraform starts it like any
provider, by the mirror's wrapper.

Plans say that computed attributes are not known yet; applies make them up (values.py); reads
believe the state. So `init`, `validate`, `plan`, `apply` and `test` run as they do with the real
provider, without its validators, defaults and drift.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import tf.provider
import tf.runner
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc

from tests.infra.provider.values import NotFound, Values, computed, read_data

UNKNOWN = msgpack.ExtType(0, b"\0")
Fill = Callable[[str, Any, Values], Any]  # (attribute, its type, the values around it) -> a value


class StubServicer(rpc.ProviderServicer):
    def __init__(self, _: Any) -> None:
        self.schema = pb.GetProviderSchema.Response.FromString(Path(os.environ["MEMLM_AWS_SCHEMA"]).read_bytes())
        self.region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        self.tags: dict[str, str] = {}

    def GetMetadata(self, request: Any, context: Any) -> Any:
        return pb.GetMetadata.Response(
            server_capabilities=self.schema.server_capabilities,
            resources=[pb.GetMetadata.ResourceMetadata(type_name=name) for name in self.schema.resource_schemas],
            data_sources=[
                pb.GetMetadata.DataSourceMetadata(type_name=name) for name in self.schema.data_source_schemas
            ],
        )

    def GetProviderSchema(self, request: Any, context: Any) -> Any:
        return self.schema

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request: Any, context: Any) -> Any:
        config = unpack(request.config)
        self.region = config.get("region") or self.region
        for block in config.get("default_tags") or ():
            self.tags = dict(block.get("tags") or {})
        return pb.ConfigureProvider.Response()

    def UpgradeResourceState(self, request: Any, context: Any) -> Any:
        state = pb.DynamicValue(json=request.raw_state.json)
        return pb.UpgradeResourceState.Response(upgraded_state=state)

    def ReadResource(self, request: Any, context: Any) -> Any:
        return pb.ReadResource.Response(new_state=request.current_state, private=request.private)

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        planned, prior = unpack(request.proposed_new_state), unpack(request.prior_state)
        if planned is not None:
            block = self.schema.resource_schemas[request.type_name].block
            self._settle_tags(block, planned)
            if prior is None:
                planned = fill(block, planned, _is_null, self._known_before)
        return pb.PlanResourceChange.Response(planned_state=pack(_forget_write_only(planned)))

    def ApplyResourceChange(self, request: Any, context: Any) -> Any:
        state = unpack(request.planned_state)
        if state is not None:
            block = self.schema.resource_schemas[request.type_name].block
            region = state.get("region") if isinstance(state.get("region"), str) else self.region

            def make(name: str, kind: Any, siblings: Values) -> Any:
                known = {key: value for key, value in siblings.items() if not _is_unknown(value)}
                value = computed(request.type_name, name, kind, known, region)
                for key in siblings.keys() & known.keys():  # what had to be made up on the way
                    siblings[key] = known[key] if _is_unknown(siblings[key]) else siblings[key]
                return value

            state = fill(block, state, _is_unknown, make)
        return pb.ApplyResourceChange.Response(new_state=pack(_forget_write_only(state)))

    def ReadDataSource(self, request: Any, context: Any) -> Any:
        config = unpack(request.config)
        region = config.get("region") or self.region
        try:
            found = read_data(request.type_name, config, region)
        except NotFound as error:
            diagnostic = pb.Diagnostic(severity=pb.Diagnostic.ERROR, summary=f"reading {request.type_name}: {error}")
            return pb.ReadDataSource.Response(diagnostics=[diagnostic])
        state = config | found

        def make(name: str, kind: Any, siblings: Values) -> Any:
            return computed(request.type_name, name, kind, dict(siblings), region)

        block = self.schema.data_source_schemas[request.type_name].block
        return pb.ReadDataSource.Response(state=pack(fill(block, state, _is_null, make)))

    def StopProvider(self, request: Any, context: Any) -> Any:
        return pb.StopProvider.Response()

    def _known_before(self, name: str, kind: Any, siblings: Values) -> Any:
        return self.region if name == "region" else UNKNOWN

    def _settle_tags(self, block: Any, planned: Values) -> None:
        if not any(attribute.name == "tags_all" for attribute in block.attributes):
            return
        tags = planned.get("tags")
        if _is_unknown(tags) or any(map(_is_unknown, (tags or {}).values())):
            planned["tags_all"] = UNKNOWN
        else:
            planned["tags_all"] = {**self.tags, **(tags or {})}


def fill(block: Any, values: Values, missing: Callable[[Any], bool], make: Fill) -> Values:
    """`values` with each missing computed attribute made, in nested blocks too."""
    for attribute in block.attributes:
        name = attribute.name
        if attribute.computed and missing(values.get(name)):
            values[name] = make(name, json.loads(attribute.type), values)
    for nested in block.block_types:
        inside = values.get(nested.type_name)
        if isinstance(inside, list):
            for element in inside:
                if isinstance(element, dict):
                    fill(nested.block, element, missing, make)
        elif isinstance(inside, dict):
            elements = inside.values() if nested.nesting == pb.Schema.NestedBlock.NestingMode.MAP else [inside]
            for element in elements:
                fill(nested.block, element, missing, make)
    return values


def unpack(value: Any) -> Any:
    if value.msgpack:
        return msgpack.unpackb(value.msgpack, raw=False, ext_hook=msgpack.ExtType, strict_map_key=False)
    return json.loads(value.json) if value.json else None


def pack(value: Any) -> Any:
    return pb.DynamicValue(msgpack=msgpack.packb(value))


def _forget_write_only(values: Values | None) -> Values | None:
    """Such values reach the provider and never the state."""
    return values and {name: None if _is_write_only(name) else value for name, value in values.items()}


def _is_write_only(name: str) -> bool:
    return name.endswith("_wo") and not name.startswith("has_")


def _is_null(value: Any) -> bool:
    return value is None


def _is_unknown(value: Any) -> bool:
    return isinstance(value, msgpack.ExtType)


class _Named:
    def full_name(self) -> str:
        return "registry.terraform.io/hashicorp/aws"


if __name__ == "__main__":
    tf.provider.ProviderServicer = StubServicer
    tf.runner.run_provider(_Named(), sys.argv)  # type: ignore[arg-type]
