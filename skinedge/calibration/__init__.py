"""What the layers of a model are given when it looks at photographs: measured once, used by every careful scheme."""
