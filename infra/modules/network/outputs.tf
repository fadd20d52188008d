output "vpc_id" {
  description = "The network."
  value       = aws_vpc.this.id
}

output "cidr_block" {
  description = "Its addresses."
  value       = aws_vpc.this.cidr_block
}

output "subnet_ids" {
  description = "Private subnets by availability zone."
  value       = { for zone, subnet in aws_subnet.private : zone => subnet.id }
}

output "endpoints_security_group_id" {
  description = "Security group of the interface endpoints. Machines that use AWS services need a rule to it on port 443."
  value       = aws_security_group.endpoints.id
}

output "s3_prefix_list_id" {
  description = "Addresses of S3 behind the gateway endpoint, for rules of security groups."
  value       = aws_vpc_endpoint.s3.prefix_list_id
}

output "num_interface_endpoints" {
  description = "Interface endpoints times zones, each of which costs money by the hour."
  value       = length(var.interface_services) * length(var.availability_zones)
}
