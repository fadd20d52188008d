# Permissions. The head starts and ends this cluster's workers and no other machine; a worker has no rights in AWS except to its data.

locals {
  ec2  = "arn:${local.partition}:ec2:${local.region}:${local.account}"
  runs = var.storage.buckets["runs"].arn

  own_tag     = { "aws:ResourceTag/ray-cluster-name" = var.name }
  request_tag = { "aws:RequestTag/ray-cluster-name" = var.name }

  worker_template_arns = [for template in aws_launch_template.worker : template.arn]
  worker_types         = distinct([for type in module.nodes.node_types : type.instance_type])
  reservation_ids      = distinct(compact([for type in module.nodes.node_types : type.capacity_reservation_id]))
  secret_arns          = concat([aws_secretsmanager_secret.token.arn], var.tracking == null ? [] : [var.tracking.secret_arn])

  # What pipelines make on their way and remove themselves; everything else in a run is for people to delete. See memlm/run.py.
  passing_keys = [
    "*/training-*", "*-partial", "*-partial/*", "*/counts-attempts", "*/counts-attempts/*", "*/blocks-attempts", "*/blocks-attempts/*",
    "*/ray/*", ".probe-*", "probe-*",
  ]

  # Head and workers alike: drivers run on the head.
  data_statements = [
    {
      Sid      = "ReadCorpus"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:ListBucket"]
      Resource = [var.storage.buckets["corpus"].arn, "${var.storage.buckets["corpus"].arn}/*"]
    },
    {
      Sid      = "ReadAndWriteRuns"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
      Resource = ["${local.runs}/${var.prefix}/*"]
    },
    {
      Sid      = "DeleteWhatPasses"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject"]
      Resource = [for key in local.passing_keys : "${local.runs}/${var.prefix}/${key}"]
    },
    {
      Sid      = "ListRuns"
      Effect   = "Allow"
      Action   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
      Resource = [local.runs]
      # A read of what is not there has no prefix, and without this right S3 would answer "forbidden" in place of "missing".
      Condition = { StringLikeIfExists = { "s3:prefix" = [var.prefix, "${var.prefix}/*"] } }
    },
    {
      Sid       = "DataKeys"
      Effect    = "Allow"
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = [var.storage.key_arns["corpus"], var.storage.key_arns["runs"]]
      Condition = { StringEquals = { "kms:ViaService" = "s3.${local.region}.amazonaws.com" } }
    },
    {
      Sid      = "ReadOwnSecrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = local.secret_arns
    },
    {
      Sid       = "SecretsKey"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = [var.storage.key_arns["secrets"]]
      Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.amazonaws.com" } }
    },
    {
      Sid      = "WriteLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      Resource = ["${var.log_group.arn}:*"]
    },
  ]

  # What Ray's autoscaler asks of EC2, each part of a launch named.
  launch_statements = [
    {
      Sid      = "LaunchOwnWorkers"
      Effect   = "Allow"
      Action   = ["ec2:RunInstances"]
      Resource = ["${local.ec2}:instance/*"]
      Condition = {
        # A request may name another type than its template does.
        StringEquals = merge(local.request_tag, { "ec2:MetadataHttpTokens" = "required", "ec2:InstanceType" = local.worker_types })
        ArnEquals    = { "ec2:LaunchTemplate" = local.worker_template_arns }
      }
    },
    {
      Sid    = "LaunchWithTheseOnly"
      Effect = "Allow"
      Action = ["ec2:RunInstances"]
      Resource = concat(
        local.worker_template_arns,
        [for subnet in values(var.network.subnet_ids) : "${local.ec2}:subnet/${subnet}"],
        ["${local.ec2}:security-group/${aws_security_group.nodes.id}", "arn:${local.partition}:ec2:${local.region}::image/${var.ami_id}", "${local.ec2}:image/${var.ami_id}"],
        [for group in aws_placement_group.efa : "${local.ec2}:placement-group/${group.name}"],
        [for id in local.reservation_ids : "${local.ec2}:capacity-reservation/${id}"],
      )
    },
    {
      Sid       = "LaunchWithEncryptedDisks"
      Effect    = "Allow"
      Action    = ["ec2:RunInstances"]
      Resource  = ["${local.ec2}:volume/*"]
      Condition = { Bool = { "ec2:Encrypted" = "true" } }
    },
    {
      Sid       = "LaunchWithoutPublicAddress"
      Effect    = "Allow"
      Action    = ["ec2:RunInstances"]
      Resource  = ["${local.ec2}:network-interface/*"]
      Condition = { BoolIfExists = { "ec2:AssociatePublicIpAddress" = "false" } }
    },
    {
      Sid       = "TagAtLaunch"
      Effect    = "Allow"
      Action    = ["ec2:CreateTags"]
      Resource  = ["${local.ec2}:instance/*", "${local.ec2}:volume/*"]
      Condition = { StringEquals = merge(local.request_tag, { "ec2:CreateAction" = "RunInstances" }) }
    },
    {
      Sid      = "TagOwnWorkers"
      Effect   = "Allow"
      Action   = ["ec2:CreateTags"]
      Resource = ["${local.ec2}:instance/*"]
      Condition = {
        StringEquals                = local.own_tag
        "ForAllValues:StringEquals" = { "aws:TagKeys" = ["Name", "ray-file-mounts-contents", "ray-launch-config", "ray-node-name", "ray-node-status", "ray-runtime-config"] }
      }
    },
    {
      Sid       = "EndOwnWorkers"
      Effect    = "Allow"
      Action    = ["ec2:TerminateInstances"]
      Resource  = ["${local.ec2}:instance/*"]
      Condition = { StringEquals = local.own_tag }
    },
    {
      Sid      = "SeeInstances"
      Effect   = "Allow"
      Action   = ["ec2:DescribeInstances"]
      Resource = ["*"]
    },
    {
      Sid       = "GiveWorkersTheirRole"
      Effect    = "Allow"
      Action    = ["iam:PassRole"]
      Resource  = [aws_iam_role.worker.arn]
      Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
    },
    {
      Sid       = "EncryptDisks"
      Effect    = "Allow"
      Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
      Resource  = [var.storage.key_arns["volumes"]]
      Condition = { StringEquals = { "kms:ViaService" = "ec2.${local.region}.amazonaws.com" } }
    },
    {
      Sid       = "AttachDisks"
      Effect    = "Allow"
      Action    = ["kms:CreateGrant"]
      Resource  = [var.storage.key_arns["volumes"]]
      Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" } }
    },
  ]

  # The smallest part of AmazonSSMManagedInstanceCore that port forwarding needs; these actions know no resources.
  session_statements = [{
    Sid      = "SessionManager"
    Effect   = "Allow"
    Action   = ["ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"]
    Resource = ["*"]
  }]

  # Session Manager then asks for a right to the document too: a session without one named would be a shell.
  named_document = { BoolIfExists = { "ssm:SessionDocumentAccessCheck" = "true" } }

  ec2_assumes = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role" "head" {
  name               = "${var.name}-head"
  description        = "Head of the Ray cluster ${var.name}"
  assume_role_policy = local.ec2_assumes
}

resource "aws_iam_role_policy" "head" {
  name   = "head"
  role   = aws_iam_role.head.id
  policy = jsonencode({ Version = "2012-10-17", Statement = concat(local.data_statements, local.launch_statements, local.session_statements) })
}

resource "aws_iam_instance_profile" "head" {
  name = "${var.name}-head"
  role = aws_iam_role.head.name
}

resource "aws_iam_role" "worker" {
  name               = "${var.name}-worker"
  description        = "Workers of the Ray cluster ${var.name}"
  assume_role_policy = local.ec2_assumes
}

resource "aws_iam_role_policy" "worker" {
  name   = "worker"
  role   = aws_iam_role.worker.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.data_statements })
}

resource "aws_iam_instance_profile" "worker" {
  name = "${var.name}-worker"
  role = aws_iam_role.worker.name
}

# For people: ports of the head brought to their own machine, and the token. No shell on any node.
resource "aws_iam_policy" "operator" {
  name        = "${var.name}-operator"
  description = "Submit jobs to the Ray cluster ${var.name} through Session Manager"

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "ForwardPortsOfTheHead"
        Effect    = "Allow"
        Action    = ["ssm:StartSession"]
        Resource  = ["${local.ec2}:instance/*"]
        Condition = merge(local.named_document, { StringEquals = { "ssm:resourceTag/ray-cluster-name" = var.name, "ssm:resourceTag/ray-node-type" = "head" } })
      },
      {
        Sid    = "PortForwardingOnly"
        Effect = "Allow"
        Action = ["ssm:StartSession"]
        Resource = [
          for document in ["AWS-StartPortForwardingSession", "AWS-StartPortForwardingSessionToRemoteHost"] :
          "arn:${local.partition}:ssm:${local.region}::document/${document}"
        ]
        Condition = local.named_document
      },
      {
        Sid      = "OwnSessions"
        Effect   = "Allow"
        Action   = ["ssm:ResumeSession", "ssm:TerminateSession"]
        Resource = ["arn:${local.partition}:ssm:${local.region}:${local.account}:session/$${aws:userid}-*"]
      },
      {
        Sid      = "FindTheHead"
        Effect   = "Allow"
        Action   = ["autoscaling:DescribeAutoScalingGroups"]
        Resource = ["*"]
      },
      {
        Sid      = "ReadToken"
        Effect   = "Allow"
        Action   = ["secretsmanager:GetSecretValue"]
        Resource = [aws_secretsmanager_secret.token.arn]
      },
      {
        Sid       = "SecretsKey"
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = [var.storage.key_arns["secrets"]]
        Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.amazonaws.com" } }
      },
    ]
  })
}
