# Choices and refusals of envs/.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  ami_id                 = "ami-0123456789abcdef0"
  mlflow_hostname        = "mlflow.example.com"
  mlflow_certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/0"
  alert_emails           = ["a@example.com"]
  mlflow_passwords       = { admin = "0123456789abcdef", pipelines = "fedcba9876543210" }
  ray_tokens             = { main = "0123456789abcdef0123456789abcdef", pretrain = "00112233445566778899aabbccddeeff", sweep = "fedcba9876543210fedcba9876543210" }
  pretrain_pool          = { instance_type = "p5.48xlarge", market = "capacity_block", num_nodes = 8, availability_zone = "us-east-1a", capacity_reservation_id = "cr-0123456789abcdef0" }
}

run "dev" {
  module {
    source = "./envs/dev"
  }

  assert {
    condition     = keys(output.commands) == ["main"] && alltrue([for type in output.nodes["main"].node_types : type.market == "spot" && type.resources.GPU == 1])
    error_message = "dev is one cluster of single GPUs on spot."
  }

  assert {
    condition     = output.usd_per_hour.without_work == 0.55 && output.usd_per_hour.at_most == 15.23
    error_message = "The table in docs/aws.md says what dev costs."
  }
}

run "prod" {
  module {
    source = "./envs/prod"
  }

  assert {
    condition     = keys(output.commands) == ["pretrain", "sweep"] && alltrue([for type in output.nodes["pretrain"].node_types : type.market == "capacity_block" && type.efa_cards == 32]) && alltrue([for type in output.nodes["sweep"].node_types : type.market == "spot" && type.efa_cards == 0])
    error_message = "prod pretrains on reserved machines with EFA, and does everything else on spot."
  }

  assert {
    condition     = output.usd_per_hour.without_work == 1.64 && output.usd_per_hour.at_most == 663.83
    error_message = "The table in docs/aws.md says what prod costs."
  }
}

# --- Bad input ---

run "zones_of_another_region" {
  command = plan

  module {
    source = "./envs/dev"
  }

  variables {
    availability_zones = ["eu-west-1a", "eu-west-1b"]
  }

  expect_failures = [var.availability_zones]
}

run "region_that_is_a_zone" {
  command = plan

  module {
    source = "./envs/dev"
  }

  variables {
    region = "us-east-1a"
  }

  expect_failures = [var.region]
}

run "pretraining_on_spot" {
  command = plan

  module {
    source = "./envs/prod"
  }

  variables {
    pretrain_pool = { instance_type = "p5.48xlarge", market = "spot", num_nodes = 8, availability_zone = "us-east-1a" }
  }

  expect_failures = [var.pretrain_pool]
}
