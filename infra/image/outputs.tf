output "ami_id" {
  description = "The image, for the variable ami_id of envs/*."
  value       = one(one(aws_imagebuilder_image.this.output_resources).amis).image
}
