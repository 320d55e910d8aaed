from rlhf_hitl.cli import main

main()
