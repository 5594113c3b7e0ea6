"""Where weights come from: folders, single files, the hub, headers, quantised files, LoRA. Knows no family."""
