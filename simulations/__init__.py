"""What crdtmail does under partition: its real replica and gossip on a simulated clock, network and disk."""
