"""What every command needs of Ray: a cluster, its checks, its resources, notices of the end, and
units that are begun once."""
