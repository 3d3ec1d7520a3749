def class_name(label, class_names):
    """Name of a class, or its number where there are no names."""
    return f"class {label}" if class_names is None else str(class_names[label])
