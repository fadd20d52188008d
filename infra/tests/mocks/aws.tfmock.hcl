# Answers of AWS in places where a random string is not enough.

mock_data "aws_caller_identity" {
  defaults = { account_id = "123456789012" }
}

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_data "aws_region" {
  defaults = { region = "us-east-1" }
}

mock_data "aws_availability_zones" {
  defaults = { names = ["us-east-1a", "us-east-1b", "us-east-1c", "us-east-1d"] }
}

# Two lists side by side: the type at a place is offered in the zone at that place.
mock_data "aws_ec2_instance_type_offerings" {
  defaults = {
    instance_types = [
      "m7i.xlarge", "m7i.2xlarge", "m7i.4xlarge", "m6i.4xlarge", "m7a.4xlarge", "g6.xlarge", "g5.xlarge", "g6e.xlarge", "g6.2xlarge", "g5.2xlarge", "g6e.2xlarge", "p4d.24xlarge", "p5.48xlarge",
      "m7i.xlarge", "m7i.2xlarge", "m7i.4xlarge", "m6i.4xlarge", "m7a.4xlarge", "g6.xlarge", "g5.xlarge", "g6e.xlarge", "g6.2xlarge", "g5.2xlarge", "g6e.2xlarge", "p4d.24xlarge", "p5.48xlarge",
      "m7i.xlarge", "m7i.2xlarge", "m7i.4xlarge", "m6i.4xlarge", "m7a.4xlarge", "g6.xlarge", "g5.xlarge", "g6e.xlarge", "g6.2xlarge", "g5.2xlarge", "g6e.2xlarge", "p4d.24xlarge", "p5.48xlarge",
    ]
    locations = [
      "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a", "us-east-1a",
      "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b",
      "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c", "us-east-1c",
    ]
  }
}

mock_resource "aws_db_instance" {
  defaults = {
    address            = "db.internal"
    port               = 5432
    resource_id        = "db-ABC"
    master_user_secret = [{ kms_key_id = "key", secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db", secret_status = "active" }]
  }
}

mock_resource "aws_imagebuilder_image" {
  defaults = {
    output_resources = [{
      amis       = [{ account_id = "123456789012", description = "", image = "ami-0fedcba9876543210", name = "memlm", region = "us-east-1" }]
      containers = []
    }]
  }
}
