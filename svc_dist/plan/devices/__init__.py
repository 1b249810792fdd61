"""What a GPU's libraries ask for, and which way they make a plan take."""
