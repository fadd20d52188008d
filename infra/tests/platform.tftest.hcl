# All of it together: names that fit each other, and commands as they are typed.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment        = "test"
  cidr_block         = "10.20.0.0/18"
  availability_zones = ["us-east-1a", "us-east-1b"]
  ami_id             = "ami-0123456789abcdef0"
  protected          = false
  monthly_budget_usd = 100
  alert_emails       = ["a@example.com"]
  mlflow             = { hostname = "mlflow.test.example.com", certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/0" }
  mlflow_passwords   = { admin = "0123456789abcdef", pipelines = "fedcba9876543210" }
  ray_tokens         = { gpu = "0123456789abcdef0123456789abcdef", cpu = "fedcba9876543210fedcba9876543210" }
  clusters = {
    gpu = { head = { instance_type = "m7i.xlarge" }, pools = { gpu = { market = "spot", max_nodes = 2, instance_types = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"] } } }
    cpu = { head = { instance_type = "m7i.xlarge" }, pools = { cpu = { market = "on_demand", max_nodes = 2, instance_types = ["m7i.xlarge"] } } }
  }
}

run "together" {
  module {
    source = "./modules/platform"
  }

  assert {
    condition     = startswith(output.commands["gpu"].connect, "aws ssm start-session --region us-east-1 --target \"$(aws autoscaling describe-auto-scaling-groups --region us-east-1 --auto-scaling-group-names memlm-test-gpu-head ") && endswith(output.commands["gpu"].connect, " --document-name AWS-StartPortForwardingSession --parameters portNumber=8265,localPortNumber=8266")
    error_message = "The dashboard is reached by a port that Session Manager forwards, each cluster's at its own."
  }

  assert {
    condition     = strcontains(output.commands["gpu"].mlflow, "--document-name AWS-StartPortForwardingSessionToRemoteHost --parameters host=mlflow.test.example.com,portNumber=443,localPortNumber=8443")
    error_message = "MLflow is reached through the head."
  }

  assert {
    condition     = strcontains(output.commands["gpu"].environment, "export RAY_ADDRESS=http://127.0.0.1:8266 RAY_AUTH_MODE=token") && strcontains(output.commands["gpu"].environment, "--secret-id memlm-test-gpu/ray-token ")
    error_message = "Jobs are submitted to the forwarded port, with the cluster's token."
  }

  assert {
    condition     = strcontains(output.commands["gpu"].environment, "MEMLM_STORAGE=s3://memlm-test-runs-123456789012/memlm MEMLM_TRACKING=https://mlflow.test.example.com MEMLM_USE_GPU=True") && strcontains(output.commands["cpu"].environment, "MEMLM_USE_GPU=False")
    error_message = "Jobs are told where runs lie, where they are tracked, and whether there are GPUs."
  }

  assert {
    condition     = strcontains(output.nodes["gpu"].head_user_data, "secret 'memlm-test-gpu/ray-token'") && strcontains(output.nodes["gpu"].head_user_data, "secret 'memlm-test-mlflow/pipelines'") && !strcontains(output.nodes["gpu"].head_user_data, "/admin")
    error_message = "A cluster reads its own token and the password of pipelines, never the administrator's."
  }

  assert {
    condition     = output.usd_per_hour.without_work == floor(0.5 + 100 * (2 * 0.2016 + 0.01 * 18 + 0.0225 + 0.1008 + 0.032 + 6 / 730)) / 100
    error_message = "What runs without any work has its price."
  }

  assert {
    condition     = output.corpus_uri == "s3://memlm-test-corpus-123456789012" && output.mlflow.browser == "https://mlflow.test.example.com:8443"
    error_message = "Outputs must say where things are."
  }
}

# --- Bad input ---

run "network_too_small_for_its_nodes" {
  command = plan

  module {
    source = "./modules/platform"
  }

  variables {
    cidr_block = "10.20.0.0/22"
    clusters = {
      gpu = { head = { instance_type = "m7i.xlarge" }, pools = { gpu = { market = "spot", max_nodes = 70, instance_types = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"] } } }
      cpu = { head = { instance_type = "m7i.xlarge" }, pools = { cpu = { market = "on_demand", max_nodes = 10, instance_types = ["m7i.xlarge"], availability_zones = ["us-east-1a"] } } }
    }
  }

  expect_failures = [var.cidr_block]
}

run "network_that_just_holds_its_nodes" {
  command = plan

  module {
    source = "./modules/platform"
  }

  variables {
    cidr_block = "10.20.0.0/22"
    clusters = {
      gpu = { head = { instance_type = "m7i.xlarge" }, pools = { gpu = { market = "spot", max_nodes = 70, instance_types = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"] } } }
      cpu = { head = { instance_type = "m7i.xlarge" }, pools = { cpu = { market = "on_demand", max_nodes = 9, instance_types = ["m7i.xlarge"], availability_zones = ["us-east-1a"] } } }
    }
  }

  assert {
    condition     = keys(output.nodes) == ["cpu", "gpu"]
    error_message = "In one zone, 3 types of 70 and 9 of another are the 219 that a quarter of a /22 holds beside what else it must."
  }
}

run "token_missing" {
  command = plan

  module {
    source = "./modules/platform"
  }

  variables {
    ray_tokens = { gpu = "0123456789abcdef0123456789abcdef" }
  }

  expect_failures = [var.ray_tokens]
}

run "one_token_for_two" {
  command = plan

  module {
    source = "./modules/platform"
  }

  variables {
    ray_tokens = { gpu = "0123456789abcdef0123456789abcdef", cpu = "0123456789abcdef0123456789abcdef" }
  }

  expect_failures = [var.ray_tokens]
}

run "cluster_called_mlflow" {
  command = plan

  module {
    source = "./modules/platform"
  }

  variables {
    ray_tokens = { mlflow = "0123456789abcdef0123456789abcdef" }
    clusters   = { mlflow = { head = { instance_type = "m7i.xlarge" }, pools = { cpu = { market = "on_demand", max_nodes = 2, instance_types = ["m7i.xlarge"] } } } }
  }

  expect_failures = [var.clusters]
}
