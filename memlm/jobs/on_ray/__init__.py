"""The parts of every command that use Ray: a cluster, its checks, its resources, notices of the
end, and units that are begun once."""
