# Instance types for clusters. A type that is missing here is refused at plan time; a new one is one line.
#
# vcpus, gpus and efa_cards (network cards that take an EFA interface): EC2's instance type pages.
# usd_per_hour: on-demand list price, Linux, us-east-1, as of 2026-11; check it before you rely on it. Spot is usually 30 to 70 % less.
locals {
  instance_types = {
    "c6i.8xlarge"   = { vcpus = 32, gpus = 0, efa_cards = 0, usd_per_hour = 1.36 }
    "c7a.8xlarge"   = { vcpus = 32, gpus = 0, efa_cards = 0, usd_per_hour = 1.64224 }
    "c7i.8xlarge"   = { vcpus = 32, gpus = 0, efa_cards = 0, usd_per_hour = 1.428 }
    "m6i.4xlarge"   = { vcpus = 16, gpus = 0, efa_cards = 0, usd_per_hour = 0.768 }
    "m6i.xlarge"    = { vcpus = 4, gpus = 0, efa_cards = 0, usd_per_hour = 0.192 }
    "m7a.4xlarge"   = { vcpus = 16, gpus = 0, efa_cards = 0, usd_per_hour = 0.92736 }
    "m7a.xlarge"    = { vcpus = 4, gpus = 0, efa_cards = 0, usd_per_hour = 0.23184 }
    "m7i.2xlarge"   = { vcpus = 8, gpus = 0, efa_cards = 0, usd_per_hour = 0.4032 }
    "m7i.4xlarge"   = { vcpus = 16, gpus = 0, efa_cards = 0, usd_per_hour = 0.8064 }
    "m7i.large"     = { vcpus = 2, gpus = 0, efa_cards = 0, usd_per_hour = 0.1008 }
    "m7i.xlarge"    = { vcpus = 4, gpus = 0, efa_cards = 0, usd_per_hour = 0.2016 }
    "g5.xlarge"     = { vcpus = 4, gpus = 1, efa_cards = 0, usd_per_hour = 1.006 }
    "g5.2xlarge"    = { vcpus = 8, gpus = 1, efa_cards = 0, usd_per_hour = 1.212 }
    "g5.48xlarge"   = { vcpus = 192, gpus = 8, efa_cards = 1, usd_per_hour = 16.288 }
    "g6.xlarge"     = { vcpus = 4, gpus = 1, efa_cards = 0, usd_per_hour = 0.8048 }
    "g6.2xlarge"    = { vcpus = 8, gpus = 1, efa_cards = 0, usd_per_hour = 0.9776 }
    "g6.48xlarge"   = { vcpus = 192, gpus = 8, efa_cards = 1, usd_per_hour = 13.3504 }
    "g6e.xlarge"    = { vcpus = 4, gpus = 1, efa_cards = 0, usd_per_hour = 1.861 }
    "g6e.2xlarge"   = { vcpus = 8, gpus = 1, efa_cards = 0, usd_per_hour = 2.24208 }
    "g6e.48xlarge"  = { vcpus = 192, gpus = 8, efa_cards = 4, usd_per_hour = 30.13118 }
    "p4d.24xlarge"  = { vcpus = 96, gpus = 8, efa_cards = 4, usd_per_hour = 21.95764 }
    "p4de.24xlarge" = { vcpus = 96, gpus = 8, efa_cards = 4, usd_per_hour = 27.44705 }
    "p5.48xlarge"   = { vcpus = 192, gpus = 8, efa_cards = 32, usd_per_hour = 55.04 }
    "p5en.48xlarge" = { vcpus = 192, gpus = 8, efa_cards = 16, usd_per_hour = 63.296 }
  }
}
