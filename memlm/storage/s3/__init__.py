"""The only package that imports boto3: requests to S3, parallel transfers, and objects that
others wrote."""
