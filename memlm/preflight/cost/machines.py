"""Devices and their peaks, dense (without sparsity), from the makers' data sheets."""

from dataclasses import dataclass

GPUS_PER_NODE = 8


@dataclass(frozen=True, kw_only=True)
class Machine:
    name: str
    bf16_flops: float
    """Peak FLOPs per second."""
    fp32_flops: float
    """Peak of plain fp32, without TF32, which is torch's default."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bandwidth of the memory, in bytes per second."""
    inside_node: float
    """Bandwidth to the other devices of the node, in bytes per second and direction."""
    between_nodes: float
    """Each device's share of its node's network, in bytes per second and direction."""
    source: str

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    def link(self, num_devices: int) -> float:
        """Bandwidth of the narrowest link among a number of devices."""
        return self.inside_node if num_devices <= GPUS_PER_NODE else min(self.inside_node, self.between_nodes)


MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            name="h100",
            bf16_flops=989e12,
            fp32_flops=67e12,
            memory=80e9,
            bandwidth=3.35e12,
            inside_node=450e9,
            between_nodes=50e9,
            source="NVIDIA H100 SXM data sheet; 400 Gb/s a GPU as in a DGX H100 and an EC2 p5",
        ),
        Machine(
            name="h200",
            bf16_flops=989e12,
            fp32_flops=67e12,
            memory=141e9,
            bandwidth=4.8e12,
            inside_node=450e9,
            between_nodes=50e9,
            source="NVIDIA H200 SXM data sheet; 400 Gb/s a GPU as in an EC2 p5e",
        ),
        Machine(
            name="b200",
            bf16_flops=2250e12,
            fp32_flops=75e12,
            memory=180e9,
            bandwidth=7.7e12,
            inside_node=900e9,
            between_nodes=50e9,
            source="NVIDIA DGX B200 data sheet, an eighth of it; 400 Gb/s a GPU",
        ),
        Machine(
            name="a100-80",
            bf16_flops=312e12,
            fp32_flops=19.5e12,
            memory=80e9,
            bandwidth=2.039e12,
            inside_node=300e9,
            between_nodes=25e9,
            source="NVIDIA A100 SXM 80 GB data sheet; 200 Gb/s a GPU as in a DGX A100",
        ),
        Machine(
            name="a100-40",
            bf16_flops=312e12,
            fp32_flops=19.5e12,
            memory=40e9,
            bandwidth=1.555e12,
            inside_node=300e9,
            between_nodes=6.25e9,
            source="NVIDIA A100 SXM 40 GB data sheet; 400 Gb/s a node as in an EC2 p4d",
        ),
        Machine(
            name="l40s",
            bf16_flops=362e12,
            fp32_flops=91.6e12,
            memory=48e9,
            bandwidth=0.864e12,
            inside_node=32e9,
            between_nodes=6.25e9,
            source="NVIDIA L40S data sheet (PCIe 4.0 x16); 400 Gb/s a node as in an EC2 g6e.48xlarge",
        ),
        Machine(
            name="a10g",
            bf16_flops=70e12,
            fp32_flops=31.2e12,
            memory=24e9,
            bandwidth=0.6e12,
            inside_node=32e9,
            between_nodes=1.5625e9,
            source="NVIDIA A10G data sheet as published for the EC2 g5 (PCIe 4.0 x16); 100 Gb/s a node of eight",
        ),
        Machine(
            name="cpu",
            bf16_flops=86e9,
            fp32_flops=86e9,
            memory=8e9,
            bandwidth=10e9,
            inside_node=2e9,
            between_nodes=1.25e9,
            source="one core of a cloud AMD EPYC: the best of eight products of 1,024-row fp32 matrices by torch, 86 GFLOP/s on a busy machine; "
            "bf16 is taken to be as fast, memory and network are round figures",
        ),
    )
}
