# The root of the tests, and of nothing else: `terraform init && terraform test` here. What is applied is in envs/.
terraform {
  required_version = ">= 1.11, < 2.0"
}
