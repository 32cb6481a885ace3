"""Every file in examples/ runs to its end."""
