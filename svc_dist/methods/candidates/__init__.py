"""Methods of which no measurement of this project says yet when to choose them."""
