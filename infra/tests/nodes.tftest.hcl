variables {
  name              = "memlm-test"
  region            = "us-east-1"
  head              = { instance_type = "m7i.xlarge" }
  pools             = { sweep = { instance_types = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"], market = "spot", max_nodes = 4 } }
  subnet_ids        = { us-east-1a = "subnet-a", us-east-1b = "subnet-b" }
  token_secret_name = "memlm-test/ray-token"
  log_group_name    = "/memlm/test"
}
run "a" {
  command = plan
  module { source = "./modules/ray_cluster/nodes" }
  assert {
    condition     = length(output.node_types) == 3
    error_message = "x"
  }
}
run "b" {
  command = plan
  module { source = "./modules/ray_cluster/nodes" }
  variables { name = "A" }
  expect_failures = [var.name]
}
