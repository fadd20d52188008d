# A network without a way in or out: no internet gateway, no NAT, no public address. AWS services are reached through endpoints.

data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

data "aws_availability_zones" "here" {
  state = "available"

  lifecycle {
    postcondition {
      condition     = length(setsubtract(var.availability_zones, self.names)) == 0
      error_message = "Availability zones ${join(", ", setsubtract(var.availability_zones, self.names))} are not in this region, or not for this account; take some of ${join(", ", self.names)}."
    }
  }
}

locals {
  region  = data.aws_region.current.region
  account = data.aws_caller_identity.current.account_id

  # By its place in the list, so that adding a zone at the end moves no other one's subnet.
  subnets = { for index, zone in var.availability_zones : zone => cidrsubnet(var.cidr_block, 2, index) }
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr_block
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = var.name }

  # Zones that do not exist are found before anything is made.
  depends_on = [data.aws_availability_zones.here]
}

# Machines in no security group reach nothing.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.this.id

  tags = { Name = "${var.name}-closed" }
}

resource "aws_subnet" "private" {
  for_each = local.subnets

  vpc_id                  = aws_vpc.this.id
  availability_zone       = each.key
  cidr_block              = each.value
  map_public_ip_on_launch = false

  tags = { Name = "${var.name}-${each.key}" }
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.this.id

  tags = { Name = "${var.name}-private" }
}

resource "aws_route_table_association" "private" {
  for_each = aws_subnet.private

  subnet_id      = each.value.id
  route_table_id = aws_route_table.private.id
}

resource "aws_flow_log" "all" {
  vpc_id                   = aws_vpc.this.id
  traffic_type             = "ALL"
  log_destination_type     = "s3"
  log_destination          = "${var.logs_bucket_arn}/flow-logs/${var.name}"
  max_aggregation_interval = 60

  tags = { Name = "${var.name}-flow" }
}

# --- Ways to AWS services ---

# Only as this account, and in S3 only to this account's buckets: credentials of somebody else's carry nothing out.
locals {
  as_this_account = { "aws:PrincipalAccount" = local.account }

  s3_endpoint_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OwnBucketsOnly"
      Effect    = "Allow"
      Principal = "*"
      Action    = "s3:*"
      Resource  = "*"
      Condition = { StringEquals = merge(local.as_this_account, { "aws:ResourceAccount" = local.account }) }
    }]
  })

  interface_endpoint_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OwnAccountOnly"
      Effect    = "Allow"
      Principal = "*"
      Action    = "*"
      Resource  = "*"
      Condition = { StringEquals = local.as_this_account }
    }]
  })
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.private.id]
  policy            = local.s3_endpoint_policy

  tags = { Name = "${var.name}-s3" }
}

resource "aws_vpc_endpoint" "interface" {
  for_each = var.interface_services

  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for zone in var.availability_zones : aws_subnet.private[zone].id]
  security_group_ids  = [aws_security_group.endpoints.id]
  policy              = local.interface_endpoint_policy

  tags = { Name = "${var.name}-${each.key}" }
}

resource "aws_security_group" "endpoints" {
  name        = "${var.name}-endpoints"
  description = "Interface endpoints of AWS services"
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${var.name}-endpoints" }
}

resource "aws_vpc_security_group_ingress_rule" "endpoints_https" {
  security_group_id = aws_security_group.endpoints.id
  description       = "HTTPS from the network"
  cidr_ipv4         = var.cidr_block
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
