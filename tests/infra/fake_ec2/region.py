"""A region of AWS, as far as a cluster needs one: moto, filled with the resources that Terraform
applied.

The stub provider's ids mean nothing to moto, so what is made here has moto's, and boot scripts
are given these in their place.
"""

import base64
import re
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

REGION = "us-east-1"
ENDPOINT = "http://aws.invalid"  # in the machine's environment, as Terraform is told; the real one is known later
Values = dict[str, Any]


@dataclass(frozen=True)
class Applied:
    """Resources of a stack that are made again in moto. JSON, since it goes into other
    namespaces."""

    by_type: dict[str, list[Values]]

    def of(self, kind: str) -> list[Values]:
        return self.by_type.get(kind, [])

    def one(self, kind: str, **wanted: str) -> Values:
        found = [v for v in self.of(kind) if all(v[name] == value for name, value in wanted.items())]
        assert len(found) == 1, f"{len(found)} of {kind} are {wanted}"
        return found[0]


class Region:
    def __init__(self, endpoint: str, applied: Applied) -> None:
        self.endpoint, self.applied = endpoint, applied
        self.names = {ENDPOINT: endpoint}  # Terraform's -> moto's
        self.ec2, self.iam, self.secrets, self.s3 = map(self.client, ("ec2", "iam", "secretsmanager", "s3"))

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "operator", "aws_secret_access_key": "operator"}
        config = Config(retries={"mode": "standard", "total_max_attempts": 5})
        return boto3.client(service, endpoint_url=self.endpoint, region_name=REGION, config=config, **keys)

    def make(self, token_name: str, token: str) -> None:
        """Network, roles, secret, buckets and launch templates."""
        self._make_network()
        self._make_roles()
        self.secrets.create_secret(Name=token_name, SecretString=token)
        for bucket in self.applied.of("aws_s3_bucket"):
            self.s3.create_bucket(Bucket=bucket["bucket"])
        for template in self.applied.of("aws_launch_template"):
            data = self._template_data(template)
            self.ec2.create_launch_template(LaunchTemplateName=template["name"], LaunchTemplateData=data)

    def _make_network(self) -> None:
        (vpc,) = self.applied.of("aws_vpc")
        made = self.ec2.create_vpc(CidrBlock=vpc["cidr_block"])["Vpc"]["VpcId"]
        self.names[vpc["id"]] = made
        for subnet in self.applied.of("aws_subnet"):
            answer = self.ec2.create_subnet(
                VpcId=made, CidrBlock=subnet["cidr_block"], AvailabilityZone=subnet["availability_zone"]
            )
            self.names[subnet["id"]] = answer["Subnet"]["SubnetId"]
        for group in self.applied.of("aws_security_group"):
            answer = self.ec2.create_security_group(GroupName=group["name"], Description="as applied", VpcId=made)
            self.names[group["id"]] = answer["GroupId"]

    def _make_roles(self) -> None:
        for role in self.applied.of("aws_iam_role"):
            self.iam.create_role(RoleName=role["name"], AssumeRolePolicyDocument=role["assume_role_policy"])
        for policy in self.applied.of("aws_iam_role_policy"):
            self.iam.put_role_policy(
                RoleName=policy["role"], PolicyName=policy["name"], PolicyDocument=self._named(policy["policy"])
            )
        for profile in self.applied.of("aws_iam_instance_profile"):
            self.iam.create_instance_profile(InstanceProfileName=profile["name"])
            self.iam.add_role_to_instance_profile(InstanceProfileName=profile["name"], RoleName=profile["role"])

    def _template_data(self, template: Values) -> Values:
        (metadata,), (profile,) = template["metadata_options"], template["iam_instance_profile"]
        script = self._named(base64.b64decode(template["user_data"]).decode())
        return {
            "ImageId": template["image_id"],
            "InstanceType": template["instance_type"],
            "UserData": base64.b64encode(script.encode()).decode(),
            "SecurityGroupIds": [self.names[group] for group in template["vpc_security_group_ids"]],
            "IamInstanceProfile": {"Arn": profile["arn"]},
            "MetadataOptions": {
                "HttpTokens": metadata["http_tokens"],
                "HttpPutResponseHopLimit": metadata["http_put_response_hop_limit"],
                "InstanceMetadataTags": metadata["instance_metadata_tags"] or "disabled",
            },
        }

    def _named(self, text: str) -> str:
        for ours, theirs in self.names.items():
            text = text.replace(ours, theirs)
        left = re.findall(r"\b(?:subnet|sg|vpc)-[0-9a-f]{17}\b", text)
        assert not set(left) - set(self.names.values()), f"ids that nothing stands for: {left}"
        return text

    def start_head(self) -> None:
        """Launch the head, as its auto-scaling group does."""
        (group,) = self.applied.of("aws_autoscaling_group")
        (template,) = group["launch_template"]
        name = self.applied.one("aws_launch_template", id=template["id"])["name"]
        tags = [{"Key": tag["key"], "Value": tag["value"]} for tag in group["tag"] if tag["propagate_at_launch"]]
        first = min(self.applied.of("aws_subnet"), key=lambda subnet: str(subnet["availability_zone"]))["id"]
        assert first in group["vpc_zone_identifier"]
        self.ec2.run_instances(
            MinCount=1,
            MaxCount=1,
            SubnetId=self.names[first],
            LaunchTemplate={"LaunchTemplateName": name, "Version": "$Latest"},
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )

    def instances(self) -> list[Values]:
        reservations = self.ec2.describe_instances()["Reservations"]
        return [instance for reservation in reservations for instance in reservation["Instances"]]

    def boot_script(self, instance: Values) -> str:
        answer = self.ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
        return base64.b64decode(answer["UserData"]["Value"]).decode()

    def template_of(self, instance: Values) -> Values:
        """Terraform's launch template of this machine, found by the node type in its boot
        script."""
        script = self.boot_script(instance)
        for template in self.applied.of("aws_launch_template"):
            if self._named(base64.b64decode(template["user_data"]).decode()) == script:
                return template
        raise AssertionError(f"{instance['InstanceId']} is from no launch template")

    def end(self, instance_id: str) -> None:
        self.ec2.terminate_instances(InstanceIds=[instance_id])
