# The network has no way in or out but to AWS services, and as this account alone.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name               = "memlm-test"
  cidr_block         = "10.20.0.0/18"
  availability_zones = ["us-east-1a", "us-east-1b"]
  logs_bucket_arn    = "arn:aws:s3:::memlm-test-logs"
}

run "closed" {
  module {
    source = "./modules/network"
  }

  assert {
    condition     = alltrue([for subnet in aws_subnet.private : !subnet.map_public_ip_on_launch])
    error_message = "A subnet gives its machines public addresses."
  }

  assert {
    condition     = { for zone, subnet in aws_subnet.private : zone => subnet.cidr_block } == { us-east-1a = "10.20.0.0/20", us-east-1b = "10.20.16.0/20" }
    error_message = "Each zone gets a quarter of the addresses, in the order of the list."
  }

  assert {
    condition     = length(aws_route_table.private.route) == 0
    error_message = "The nodes' route table must lead nowhere."
  }

  assert {
    condition     = keys(aws_route_table_association.private) == ["us-east-1a", "us-east-1b"]
    error_message = "A subnet without this route table would have the network's own."
  }

  assert {
    condition     = length(aws_default_security_group.closed.ingress) == 0 && length(aws_default_security_group.closed.egress) == 0
    error_message = "The default security group must let nothing through."
  }

  assert {
    condition     = aws_flow_log.all.traffic_type == "ALL" && startswith(aws_flow_log.all.log_destination, var.logs_bucket_arn)
    error_message = "All traffic must be logged to the logs bucket."
  }

  assert {
    condition     = aws_vpc.this.enable_dns_support && aws_vpc.this.enable_dns_hostnames
    error_message = "Endpoints are found by names, which need DNS."
  }
}

run "endpoints" {
  module {
    source = "./modules/network"
  }

  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && contains(aws_vpc_endpoint.s3.route_table_ids, aws_route_table.private.id)
    error_message = "S3 must be reached through a gateway in the nodes' route table."
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_vpc_endpoint.s3.policy).Statement :
      statement.Effect == "Allow" && statement.Condition.StringEquals["aws:ResourceAccount"] == "123456789012" && statement.Condition.StringEquals["aws:PrincipalAccount"] == "123456789012"
    ])
    error_message = "S3 must be reached in this account's buckets alone, by this account alone."
  }

  assert {
    condition     = alltrue([for service in ["ec2", "kms", "logs", "secretsmanager", "ssm", "ssmmessages", "sts"] : contains(keys(aws_vpc_endpoint.interface), service)])
    error_message = "A service that nodes need has no endpoint."
  }

  assert {
    condition     = alltrue([for endpoint in aws_vpc_endpoint.interface : endpoint.private_dns_enabled && length(endpoint.subnet_ids) == 2])
    error_message = "Endpoints must answer to the services' own names, in every zone."
  }

  assert {
    condition     = alltrue([for endpoint in aws_vpc_endpoint.interface : jsondecode(endpoint.policy).Statement[0].Condition.StringEquals["aws:PrincipalAccount"] == "123456789012"])
    error_message = "Endpoints must serve this account alone."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.endpoints_https.cidr_ipv4 == "10.20.0.0/18" && aws_vpc_security_group_ingress_rule.endpoints_https.from_port == 443 && aws_vpc_security_group_ingress_rule.endpoints_https.to_port == 443
    error_message = "Endpoints must be reached by HTTPS from the network alone."
  }
}

# --- Bad input ---

run "cidr_too_small" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    cidr_block = "10.20.0.0/23"
  }

  expect_failures = [var.cidr_block]
}

run "cidr_too_large" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    cidr_block = "10.0.0.0/8"
  }

  expect_failures = [var.cidr_block]
}

run "cidr_public" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    cidr_block = "8.8.0.0/16"
  }

  expect_failures = [var.cidr_block]
}

run "cidr_with_host_bits" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    cidr_block = "10.20.3.0/18"
  }

  expect_failures = [var.cidr_block]
}

run "one_zone" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    availability_zones = ["us-east-1a"]
  }

  expect_failures = [var.availability_zones]
}

run "zones_of_two_regions" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    availability_zones = ["us-east-1a", "us-west-2a"]
  }

  expect_failures = [var.availability_zones]
}

run "zone_that_does_not_exist" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    availability_zones = ["us-east-1a", "us-east-1z"]
  }

  expect_failures = [data.aws_availability_zones.here]
}

run "endpoint_left_out" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    interface_services = ["ec2"]
  }

  expect_failures = [var.interface_services]
}
