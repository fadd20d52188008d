"""The AWS provider's schema, read out of the bindings that HashiCorp generated from it for
TypeScript.

    python -m tests.infra.provider.schema provider-aws.tgz schema.pb

Each file of the package carries its TypeScript in a source map; there every attribute has a line
like `// secret_id - computed: false, optional: false, required: true`, a getter that gives its
type and, where it is nested, the class that describes what is in it. Out comes the answer to
GetProviderSchema, as Terraform's protocol 6 wants it.

What the bindings don't say: defaults, validators, which change replaces a resource, what is
sensitive. An optional nested attribute that isn't computed cannot be told from a block and is
served as a block.
"""

import base64
import json
import re
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tf.gen import tfplugin_pb2 as pb

Nesting = pb.Schema.NestedBlock.NestingMode
WRITE_ONLY = b"\x58\x01"  # field 11 of Schema.Attribute, younger than the stubs at hand
SENSITIVE = {"password", "secret_string", "secret_binary", "master_password", "admin_password", "auth_token"}
DEPTH = 12  # of nested structs; deeper ones refer to themselves

_ATTRIBUTE = re.compile(
    r"^  // (?P<name>\w+) - computed: (?P<computed>\w+), optional: (?P<optional>\w+), required: (?P<required>\w+)\n"
    r"(?P<private>  private .*\n)?  public get \w+\(\) \{\n(?P<getter>(?:    .*\n)*?)  \}",
    re.MULTILINE,
)
_HCL = re.compile(
    r'^\s+(\w+): \{\n\s+value: .*\n\s+isBlock: (\w+),\n\s+type: "(\w+)",\n\s+storageClassType: "(\w+)"', re.M
)
_NESTED = re.compile(r'= new (cdktf\.)?(\w+?)(List|Map|OutputReference)\(this, "\w+"(?:, (\w+))?\)')
_SIMPLE = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getStringMapAttribute": ["map", "string"],
    "getNumberMapAttribute": ["map", "number"],
    "getBooleanMapAttribute": ["map", "bool"],
}
_HCL_TYPES = {
    "string": "string",
    "number": "number",
    "boolean": "bool",
    "stringMap": ["map", "string"],
    "stringList": "string",
    "numberList": "number",
}


@dataclass
class Struct:
    """One class of the bindings: a resource, or something nested in one."""

    attributes: list[re.Match[str]] = field(default_factory=list)
    hcl: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # name -> isBlock, type, storage class
    single: bool = False  # one struct and not a list of at most one


@dataclass
class Bindings:
    """The contents of the files of one resource."""

    type_name: str
    kind: str  # TerraformResource, TerraformDataSource, TerraformProvider
    root: str
    structs: dict[str, Struct]

    @cached_property
    def schema(self) -> pb.Schema:
        block = pb.Schema.Block()
        self._fill(block, self.structs[self.root], 0)
        if self.kind == "TerraformProvider":
            self._fill_provider_blocks(block)
        return pb.Schema(version=0, block=block)

    def _fill(self, block: pb.Schema.Block, struct: Struct, depth: int) -> None:
        names = {match["name"] for match in struct.attributes}
        for match in struct.attributes:
            nested = _NESTED.search(match["private"] or "")
            if nested is None or nested[1]:
                if (kind := _simple_type(match)) is not None:
                    self._add(block, match, kind, names)
            elif match["computed"] == "true":
                self._add(block, match, self._object_type(nested, depth), names)
            else:
                self._add_block(block, match, nested, struct, depth)

    def _add(self, block: pb.Schema.Block, match: re.Match[str], kind: Any, names: set[str]) -> None:
        name = match["name"]
        attribute = block.attributes.add(
            name=name,
            type=json.dumps(kind).encode(),
            computed=match["computed"] == "true",
            optional=match["optional"] == "true",
            required=match["required"] == "true",
            sensitive=name in SENSITIVE,
        )
        if name.endswith("_wo") and name.removesuffix("_wo") in names:
            attribute.MergeFromString(WRITE_ONLY)

    def _add_block(
        self, block: pb.Schema.Block, match: re.Match[str], nested: re.Match[str], parent: Struct, depth: int
    ) -> None:
        if depth > DEPTH:
            return
        struct, kind, is_set = self.structs[nested[2]], nested[3], nested[4] == "true"
        required = int(match["required"] == "true")
        shape: dict[str, Any] = {}
        if kind == "Map":
            shape = {"nesting": Nesting.MAP}
        elif kind == "List":
            shape = {"nesting": Nesting.SET if is_set else Nesting.LIST, "min_items": required}
        elif struct.single:
            shape = {"nesting": Nesting.SINGLE}
        else:
            as_set = parent.hcl.get(match["name"], ("", "", ""))[1] == "set"
            shape = {"nesting": Nesting.SET if as_set else Nesting.LIST, "min_items": required, "max_items": 1}
        made = block.block_types.add(type_name=match["name"], **shape)
        made.block.SetInParent()  # there may be nothing to fill in
        self._fill(made.block, struct, depth + 1)

    def _object_type(self, nested: re.Match[str], depth: int) -> Any:
        struct = self.structs[nested[2]]
        fields: dict[str, Any] = {}
        for match in struct.attributes if depth <= DEPTH else []:
            inner = _NESTED.search(match["private"] or "")
            plain = inner is None or inner[1]
            kind = _simple_type(match) if plain else self._object_type(inner, depth + 1)  # type: ignore[arg-type]
            if kind is not None:
                fields[match["name"]] = kind
        kind = ["object", fields]
        if nested[3] == "Map":
            return ["map", kind]
        if nested[3] == "List":
            return ["set" if nested[4] == "true" else "list", kind]
        return kind if struct.single else ["list", kind]

    def _fill_provider_blocks(self, block: pb.Schema.Block) -> None:
        """Blocks of the provider itself: their bindings are plain interfaces."""
        shapes = {"default_tags": "DefaultTags", "ignore_tags": "IgnoreTags", "assume_role": "AssumeRole"}
        shapes |= {"assume_role_with_web_identity": "AssumeRoleWithWebIdentity", "endpoints": "Endpoints"}
        for name, suffix in shapes.items():
            as_set = name == "endpoints"
            made = block.block_types.add(type_name=name, nesting=Nesting.SET if as_set else Nesting.LIST)
            made.max_items = 0 if as_set else 1
            for inner, (_, kind, storage) in self.structs[f"AwsProvider{suffix}"].hcl.items():
                element = _HCL_TYPES[storage]
                whole = [kind, element] if storage.endswith("List") else element
                made.block.attributes.add(name=inner, type=json.dumps(whole).encode(), optional=True)


def _simple_type(match: re.Match[str]) -> Any:
    """The type as Terraform writes it, None for what only the provider's own blocks have."""
    private, getter = match["private"] or "", match["getter"]
    if mapping := re.search(r"new cdktf\.(String|Number|Boolean)Map(List)?\(", private):
        element = {"String": "string", "Number": "number", "Boolean": "bool"}[mapping[1]]
        return ["list", ["map", element]] if mapping[2] else ["map", element]
    for method, kind in _SIMPLE.items():
        if f"this.{method}(" in getter:
            return kind
    if "ListAttribute(" in getter:
        element = "number" if "getNumberListAttribute" in getter else "string"
        return ["set" if "Fn.tolist" in getter else "list", element]
    if "interpolationForAttribute" in getter:
        if re.search(r"\{ \[key: string\]: string(\[\])? \}\[\]", private):
            return ["list", ["map", "string"]]
        nested_map = re.search(r"\{ \[key: string\]: (\{ \[key: string\]: string \}|string\[\])", private)
        if nested_map:
            return ["map", ["list", "string"] if "[]" in nested_map[1] else ["map", "string"]]
        return "string"  # any: a dynamic value is not allowed inside collections
    own = re.search(r"\?: (string\[\]|string|number|boolean)", private)  # the provider's own arguments
    return {"string[]": ["list", "string"], "boolean": "bool"}.get(own[1], own[1]) if own else None


def read_package(tarball: Path) -> Iterator[Bindings]:
    """The package's description of the provider and each of its types."""
    sources: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(tarball) as package:
        for member in package:
            if place := re.match(r"package/lib/([^/]+)/index(-structs/structs\d+)?\.js$", member.name):
                opened = package.extractfile(member)
                assert opened is not None
                sources[place[1]].append(_typescript(opened.read().decode()))
    for files in sources.values():
        yield from _parse(files)


def _typescript(script: str) -> str:
    _, found, encoded = script.rpartition("sourceMappingURL=data:application/json;base64,")
    if not found:
        raise ValueError("a file of the package has no source map: it is not the package this was written for")
    return str(json.loads(base64.b64decode(encoded.strip()))["sourcesContent"][0])


def _parse(files: list[str]) -> Iterator[Bindings]:
    structs: dict[str, Struct] = defaultdict(Struct)
    found: list[tuple[str, str, str]] = []
    for piece in (piece for text in files for piece in re.split(r"^export ", text, flags=re.MULTILINE)):
        if header := re.match(r"class (\w+) extends cdktf\.(Terraform(?:Resource|DataSource|Provider)) ", piece):
            structs[header[1]].attributes = list(_ATTRIBUTE.finditer(piece))
            structs[header[1]].hcl = _hcl(piece)
            type_name = re.search(r'tfResourceType = "(\w+)"', piece)
            assert type_name is not None
            found.append((type_name[1], header[2], header[1]))
        elif header := re.match(r"class (\w+)OutputReference extends", piece):
            struct = structs[header[1]]
            struct.attributes = list(_ATTRIBUTE.finditer(piece))
            struct.single = "super(terraformResource, terraformAttribute, false);" in piece
        elif header := re.match(r"function (\w+)ToHclTerraform\(", piece):
            structs[header[1][0].upper() + header[1][1:]].hcl = _hcl(piece)
    for type_name, kind, root in found:
        yield Bindings(type_name, kind, root, structs)


def _hcl(piece: str) -> dict[str, tuple[str, str, str]]:
    return {match[1]: (match[2], match[3], match[4]) for match in _HCL.finditer(piece)}


def build(tarball: Path) -> pb.GetProviderSchema.Response:
    response = pb.GetProviderSchema.Response()
    response.server_capabilities.get_provider_schema_optional = True
    for bindings in read_package(tarball):
        if bindings.kind == "TerraformProvider":
            response.provider.CopyFrom(bindings.schema)
        elif bindings.kind == "TerraformResource":
            response.resource_schemas[bindings.type_name].CopyFrom(bindings.schema)
        else:
            response.data_source_schemas[bindings.type_name].CopyFrom(bindings.schema)
    return response


def main() -> int:
    tarball, output = Path(sys.argv[1]), Path(sys.argv[2])
    response = build(tarball)
    partial = output.with_suffix(".partial")
    partial.write_bytes(response.SerializeToString())
    partial.rename(output)
    print(f"{len(response.resource_schemas)} resources, {len(response.data_source_schemas)} data sources")
    return 0


if __name__ == "__main__":
    sys.exit(main())
