"""Artifacts that the stages pass to each other, on a disk or on S3. No reader sees half-written
files, and nothing that memlm did not write is deleted.

    artifacts   a directory of files and its manifest: write, verify, open; used by the stages
    probing     a test that a store does what storage relies on
    deleting    removal of what memlm made from a tree
    leases      the exclusive right to write, numbered by epochs
    records     one small JSON object with a digest of its own
    replacing   a new artifact in the place of a damaged one, keeping other people's files
    views       an artifact's own files in a folder that holds other files too
    objects     one small file on either kind of place: read, write, create, replace, list, delete
    s3          objects on S3 (client), large files in checked parallel parts (transfer), other
                people's objects (foreign)
    copies      temporary copies on this node's disk, removed even if their owner was killed
    local       files on a disk
    retries     which requests are retried, how often, how long
    manifests, places, errors    shared vocabulary

Imports go down this list only. Any store that speaks S3 will do if `probe` says so;
AWS_ENDPOINT_URL_S3 names it, and credentials come from the SDK's standard chain alone.
"""

from memlm.storage.artifacts import (
    Draft,
    add_manifest,
    address_of_file,
    has_artifact,
    has_own_manifest,
    open_artifact,
    open_artifact_temporarily,
    read_manifest,
    write_artifact,
)
from memlm.storage.copies import folder_for_copies
from memlm.storage.deleting import delete_made
from memlm.storage.errors import REMAKE, DamagedArtifact, LeaseHeld, LeaseLost, StorageError
from memlm.storage.leases import Holder, Lease, acquire, lease
from memlm.storage.manifests import ADOPTED, MANIFEST, README, Manifest
from memlm.storage.manifests import parse as parse_manifest
from memlm.storage.objects import delete, list_names, local_file, read_bytes, read_json, write_bytes, write_json
from memlm.storage.places import PARTIAL, is_remote, join, require_absolute
from memlm.storage.probing import Probe, probe, require_conditional_writes
from memlm.storage.records import read_record, write_record
from memlm.storage.s3.foreign import StoredObject, list_objects, stat_object

__all__ = [
    "ADOPTED",
    "MANIFEST",
    "PARTIAL",
    "README",
    "REMAKE",
    "DamagedArtifact",
    "Draft",
    "Holder",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "Manifest",
    "Probe",
    "StorageError",
    "StoredObject",
    "acquire",
    "add_manifest",
    "address_of_file",
    "delete",
    "delete_made",
    "folder_for_copies",
    "has_artifact",
    "has_own_manifest",
    "is_remote",
    "join",
    "lease",
    "list_names",
    "list_objects",
    "local_file",
    "open_artifact",
    "open_artifact_temporarily",
    "parse_manifest",
    "probe",
    "read_bytes",
    "read_json",
    "read_manifest",
    "read_record",
    "require_absolute",
    "require_conditional_writes",
    "stat_object",
    "write_artifact",
    "write_bytes",
    "write_json",
    "write_record",
]
