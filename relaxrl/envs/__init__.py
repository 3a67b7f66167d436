"""The relaxation environment: state, action correction, reward; it runs without any network."""
